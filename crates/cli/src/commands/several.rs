//! One thing done to several: each on its own, all at once, answers in the order given.

use futures_util::future::join_all;

use super::Context;
use crate::error::Error;

/// Does `act` to each of `names`, once, and prints what it answers, one a line.
///
/// # Errors
/// The failure where there is one name; else that some failed, after each was reported.
pub async fn each<T, F>(context: &Context, names: &[T], act: impl Fn(T) -> F) -> Result<(), Error>
where
    T: Clone + PartialEq,
    F: Future<Output = Result<String, Error>>,
{
    let mut once: Vec<T> = Vec::new();
    for name in names {
        if !once.contains(name) {
            once.push(name.clone());
        }
    }
    let all = once.len();
    let results = join_all(once.into_iter().map(act)).await;
    report(context, all, results)
}

/// Prints the results of several in order.
///
/// # Errors
/// As [`each`].
pub fn report(context: &Context, all: usize, results: Vec<Result<String, Error>>) -> Result<(), Error> {
    let mut codes = Vec::new();
    for result in results {
        match result {
            Ok(line) => crate::talk::print(&format!("{line}\n"))?,
            Err(error) if all == 1 => return Err(error),
            Err(error) => {
                context.talk.error(&error);
                codes.push(error.code());
            }
        }
    }
    match codes.as_slice() {
        [] => Ok(()),
        codes => Err(Error::Several { failed: codes.len(), all, code: common(codes, all) }),
    }
}

/// The code that all of them have in common, else the general one.
fn common(codes: &[u8], all: usize) -> u8 {
    let alike = codes.len() == all && codes.windows(2).all(|pair| pair[0] == pair[1]);
    if alike { codes[0] } else { model::exit::FAILED }
}

#[cfg(test)]
mod tests {
    use super::common;

    #[test]
    fn a_code_stands_for_all_or_for_none() {
        for (codes, all, expect) in
            [(&[4, 4][..], 2, 4), (&[4, 5], 2, 1), (&[4], 2, 1), (&[130, 130, 130], 3, 130)]
        {
            assert_eq!(common(codes, all), expect, "{codes:?} of {all}");
        }
    }
}
