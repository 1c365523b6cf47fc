//! What flows to a guest and from it for as long as it takes, but not for ever: a guest that stands still is given up.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::GuestError;

/// How long a guest may stand still by default. It may read a file of many gigabytes, in software emulation, before it has
/// anything to say of it.
pub const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What comes from a guest, piece by piece.
#[derive(Debug)]
pub struct Content {
    body: Incoming,
    patience: Duration,
}

impl Content {
    pub(super) fn new(body: Incoming, patience: Duration) -> Self {
        Self { body, patience }
    }

    /// The next piece; nothing at the end. May be dropped at any time and loses nothing.
    ///
    /// # Errors
    /// Where the stream breaks, or no piece comes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GuestError> {
        let frame = timeout(self.patience, self.body.frame()).await;
        let frame = frame.map_err(|_| GuestError::Still(self.patience))?;
        Ok(frame.transpose()?.map(|frame| frame.into_data().unwrap_or_default()))
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::next`], and where that is more than `limit` bytes.
    pub(super) async fn whole(mut self, limit: usize) -> Result<BytesMut, GuestError> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if bytes.len() + piece.len() > limit {
                return Err(GuestError::Malformed(format!("it is longer than {limit} bytes").into()));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// Since when it is the guest's turn to take what there is; nothing while it is ours to bring more.
type Turn = Option<Instant>;

/// A body that tells whose turn it is.
pub struct Watched<B> {
    body: B,
    turn: watch::Sender<Turn>,
}

/// Watches `body` on its way to a guest.
pub fn watched<B>(body: B) -> (Watched<B>, watch::Receiver<Turn>) {
    let (turn, watching) = watch::channel(Some(Instant::now()));
    (Watched { body, turn }, watching)
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    /// Asked for more only when the guest has taken what was brought before.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.turn.send_replace(None);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.turn.send_replace(Some(Instant::now()));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Waits for what a guest answers to a watched body: for as long as it takes that, and `patience` after it.
///
/// # Errors
/// Those of `answer`, and where the guest takes nothing.
pub async fn while_taken<T>(
    mut turn: watch::Receiver<Turn>,
    patience: Duration,
    answer: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, GuestError> {
    let still = async move {
        loop {
            let since = *turn.borrow_and_update();
            let over = async {
                match since {
                    Some(since) => sleep_until(since + patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                changed = turn.changed() => match (changed, since) {
                    (Ok(()), _) => {}
                    // All of it was taken, or nobody wants it any more.
                    (Err(_), since) => return sleep_until(since.unwrap_or_else(Instant::now) + patience).await,
                },
            }
        }
    };
    tokio::select! {
        answer = answer => answer,
        () = still => Err(GuestError::Still(patience)),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::channel::Channel;
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const NEARLY: Duration = Duration::from_secs(59);

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_is_waited_for_and_the_hosts_own_time_does_not_count() {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let (mut body, turn) = watched(body);
        let host = async move {
            for piece in ["a", "b", "c"] {
                sleep(PATIENCE * 10).await;
                sender.send_data(Bytes::from(piece)).await.unwrap();
            }
        };
        let guest = async move {
            let mut taken = Vec::new();
            while let Some(frame) = body.frame().await {
                taken.extend_from_slice(frame.unwrap().data_ref().unwrap());
                sleep(NEARLY).await;
            }
            drop(body);
            sleep(NEARLY).await;
            Ok(taken)
        };
        let (taken, ()) = tokio::join!(while_taken(turn, PATIENCE, guest), host);
        assert_eq!(taken.unwrap(), b"abc");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_given_up() {
        for takes in [0, 1, 2] {
            let (mut sender, body) = Channel::<Bytes, Infallible>::new(4);
            let (mut body, turn) = watched(body);
            sender.send_data(Bytes::from("a")).await.unwrap();
            drop(sender);
            let begin = Instant::now();
            let guest = async move {
                for _ in 0..takes {
                    let _ = body.frame().await;
                }
                std::future::pending::<Result<(), GuestError>>().await
            };
            let given_up = while_taken(turn, PATIENCE, guest).await;
            assert!(matches!(given_up, Err(GuestError::Still(PATIENCE))), "{takes}: {given_up:?}");
            assert_eq!(begin.elapsed(), PATIENCE, "{takes}");
        }
    }
}
