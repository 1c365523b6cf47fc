//! What Firecracker says of itself: its log, and what its counters tell of trouble.
//!
//! Both come through named pipes, which hold what they can and hold up nobody, also where nobody reads. What is read goes into the
//! VMM's log, of which no more is kept than that may have; a guest can have much logged.

use std::{fs::File, path::Path};

use host::pipe;
use serde_json::{Map, Value};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

use crate::{Place, launch::blocking, task::Task, watcher};

/// Where it logs.
pub(super) const LOG: &str = "log.pipe";
/// Where it writes its counters, a line of JSON once a minute and at its end (`docs/metrics.md` of its source).
pub(super) const METRICS: &str = "metrics.pipe";

/// The longest line of counters that is read; Firecracker's have some 20 KB.
const LONGEST: usize = 256 << 10;
/// As much trouble is told of one line.
const TOLD: usize = 16;

/// Both, being read.
pub(super) struct Said([Task<()>; 2]);

impl Said {
    /// Makes the pipes in `run_dir`. What it gives keeps them open until Firecracker has opened them.
    pub(super) fn make(run_dir: &Path) -> host::Result<[File; 2]> {
        let [log, metrics] = [LOG, METRICS].map(|name| {
            let path = run_dir.join(name);
            pipe::make(&path).and_then(|()| host::fs::open_rw(&path))
        });
        Ok([log?, metrics?])
    }

    /// Reads them until nobody has them open for writing.
    pub(super) fn listen(place: &Place) -> host::Result<Self> {
        let open = |name: &str| {
            Receiver::from_file(pipe::reader(&place.run_dir.join(name))?)
                .map_err(|e| host::Error::new("use", "a pipe of the machine", e))
        };
        let log = |_: &mut Vec<u8>, piece: &[u8]| piece.to_vec();
        let log = pump(open(LOG)?, place.clone(), log);
        let metrics = pump(open(METRICS)?, place.clone(), trouble);
        Ok(Self([Task::spawn(log), Task::spawn(metrics)]))
    }

    /// Waits until all is read.
    pub(super) async fn ended(self) {
        for task in self.0 {
            let _ = task.join().await;
        }
    }
}

/// Puts what `tell` makes of each piece of `stream` into the log.
async fn pump(
    mut stream: Receiver,
    place: Place,
    mut tell: impl FnMut(&mut Vec<u8>, &[u8]) -> Vec<u8> + Send,
) {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let told = tell(&mut kept, &buffer[..count]);
        if !told.is_empty() {
            let directory = place.log_dir.clone();
            // A log that cannot be written is read on, into nothing.
            let _ = blocking(move || watcher::log(&directory, &told)).await;
        }
    }
}

/// What there is to say of the lines of counters that end in `piece`, whose first part is in `line`.
fn trouble(line: &mut Vec<u8>, piece: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    for part in piece.split_inclusive(|&byte| byte == b'\n') {
        // The rest of a line that is too long is none.
        if line.len() + part.len() > LONGEST {
            line.clear();
        }
        line.extend_from_slice(part);
        if line.last() == Some(&b'\n') {
            let troubles = troubles(line);
            if !troubles.is_empty() {
                said.extend_from_slice(
                    format!("counted since the last time: {}\n", troubles.join(", ")).as_bytes(),
                );
            }
            line.clear();
        }
    }
    said
}

/// The counters of one line that count what should not be, each with its group: `block.event_fails 3`.
fn troubles(line: &[u8]) -> Vec<String> {
    let groups: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
    let counters = groups.iter().flat_map(|(group, counters)| {
        counters.as_object().into_iter().flatten().map(move |(name, value)| (group, name, value))
    });
    let bad = |name: &str| {
        ["fails", "failures", "faults"].iter().any(|end| name.ends_with(end)) || name.starts_with("missed_")
    };
    counters
        .filter(|(_, name, _)| bad(name))
        .filter_map(|(group, name, value)| {
            let count = value.as_u64().filter(|count| *count > 0)?;
            let short = |text: &str| text.chars().take(40).collect::<String>();
            Some(format!("{}.{} {count}", short(group), short(name)))
        })
        .take(TOLD)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[&str]) -> String {
        let mut line = Vec::new();
        let all = pieces.iter().flat_map(|piece| trouble(&mut line, piece.as_bytes())).collect();
        assert!(line.len() <= LONGEST);
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn counters_of_trouble_are_told_and_no_others() {
        let line = r#"{"utc_timestamp_ms": 5, "block": {"event_fails": 3, "read_bytes": 99, "execute_fails": 0},
            "logger": {"missed_log_count": 2}, "seccomp": {"num_faults": 1}, "vcpu": {"failures": -1, "exit_io_in": 7}}"#;
        let line = line.replace('\n', "") + "\n";
        let expect = "counted since the last time: block.event_fails 3, logger.missed_log_count 2, seccomp.num_faults 1\n";
        assert_eq!(told(&[&line]), expect);
        let (head, tail) = line.split_at(line.len() / 2);
        assert_eq!(told(&[head, tail, &line]), expect.repeat(2), "in whatever pieces");
        assert_eq!(told(&["{\"vcpu\": {\"failures\": 0}}\n"]), "");
    }

    #[test]
    fn what_are_no_counters_is_passed_over_and_nothing_grows() {
        for noise in ["\n", "nothing\n", "[1]\n", "{\"a\": 1}\n", "{\"a\": {\"fails\": \"x\"}}\n"] {
            assert_eq!(told(&[noise]), "", "{noise:?}");
        }
        let endless = "x".repeat(LONGEST - 1);
        assert_eq!(
            told(&[&endless, &endless, &endless, "\n", "{\"a\": {\"fails\": 1}}\n"]),
            "counted since the last time: a.fails 1\n"
        );
        let many: Vec<String> = (0..100).map(|n| format!("\"g{n}\": {{\"fails\": 1}}")).collect();
        assert_eq!(told(&[&format!("{{{}}}\n", many.join(","))]).matches("fails 1").count(), TOLD);
        let long = format!("{{\"{0}\": {{\"{0}fails\": 1}}}}\n", "n".repeat(1000));
        assert!(told(&[&long]).len() < 200);
    }
}
