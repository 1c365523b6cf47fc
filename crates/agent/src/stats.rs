//! What the guest uses, from `/proc`.

use std::path::Path;

use wire::guest::{Stats, Usage};

/// What is used now; the disks' part is the caller's.
#[must_use]
pub fn now(overlay: Usage, work: Usage) -> Stats {
    let read = |path: &str| host::fs::read_text(Path::new(path)).unwrap_or_default();
    let (memory_total, memory_available) = memory(&read("/proc/meminfo"));
    let (net_rx, net_tx) = network(&read("/proc/net/dev"));
    Stats {
        cpu_ms: cpu_ms(&read("/proc/stat"), rustix::param::clock_ticks_per_second()),
        load_1m: read("/proc/loadavg")
            .split(' ')
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or_default(),
        memory_total,
        memory_available,
        overlay,
        work,
        net_rx,
        net_tx,
    }
}

/// `cpu user nice system idle iowait irq softirq steal …`, in ticks. A guest's own time is in user already.
fn cpu_ms(stat: &str, ticks: u64) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let field = |n: usize| {
        line.split_ascii_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or_default()
    };
    let busy: u64 = [1, 2, 3, 6, 7].map(field).iter().sum();
    busy * 1000 / ticks.max(1)
}

fn memory(meminfo: &str) -> (u64, u64) {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    (bytes("MemTotal:").unwrap_or_default(), bytes("MemAvailable:").unwrap_or_default())
}

/// Bytes received and sent: the first and ninth number of each device.
fn network(dev: &str) -> (u64, u64) {
    let device = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_ascii_whitespace().map(|n| n.parse::<u64>().ok());
        let (received, sent) = (numbers.next()??, numbers.nth(7)??);
        (name.trim() != "lo").then_some((received, sent))
    };
    dev.lines().filter_map(device).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_read() {
        assert_eq!(cpu_ms("cpu  100 10 50 9999 8888 3 2 77 66 55\ncpu0 1 2 3", 100), 1650);
        assert_eq!(
            memory("MemTotal:  1024 kB\nMemFree: 1 kB\nMemAvailable:    512 kB\n"),
            (1 << 20, 512 << 10)
        );
        let dev = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  \
                   eth0:100 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0\neth1: 1 0 0 0 0 0 0 0 2 0\n";
        assert_eq!(network(dev), (101, 42));
        assert_eq!((cpu_ms("", 0), memory(""), network("x: 1")), (0, (0, 0), (0, 0)));
    }

    #[test]
    fn this_machine_has_used_something() {
        let stats = now(Usage::default(), Usage::default());
        assert!(
            stats.cpu_ms > 0 && stats.memory_available > 0 && stats.memory_available <= stats.memory_total
        );
    }
}
