//! `vm stats`.

use std::{io::IsTerminal, time::Duration};

use model::size::human;
use wire::control::{AllStats, StatsOfVm};

use super::Context;
use crate::{
    args::{Output, StatsArgs},
    client::{path, with},
    error::Error,
    talk::{Reader, json_text, print_bytes},
    text::table,
};

/// How long what is shown stays, with `--watch`.
const AGAIN: Duration = Duration::from_secs(2);
/// Puts the cursor at the top of a cleared screen (ECMA-48 CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// `vm stats`.
///
/// # Errors
/// Where the daemon cannot be asked, there is no such machine, or it does not run.
pub async fn show(context: &Context, args: StatsArgs) -> Result<(), Error> {
    let mut target = path(&["stats"]);
    if !args.refs.is_empty() {
        target = with(target, "vms", &args.refs.join(","));
    }
    loop {
        let all: AllStats = context.client.get(&target).await?;
        let text = match args.format.output {
            Output::Json => json_text(&all),
            Output::Text => {
                let screen = args.watch && std::io::stdout().is_terminal();
                let rows: Vec<_> = all.vms.iter().map(row).collect();
                format!("{}{}", if screen { CLEAR } else { "" }, table(COLUMNS, &rows))
            }
        };
        if print_bytes(text.as_bytes())? == Reader::Gone || !args.watch {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

const COLUMNS: [&str; 8] = ["ID", "NAME", "CPU", "MEM", "MEM ON HOST", "SYSTEM", "/ROOT", "NET IN / OUT"];

fn row(vm: &StatsOfVm) -> [String; 8] {
    let (stats, guest) = (&vm.stats, &vm.stats.guest);
    let of = |used: u64, total: u64| format!("{} / {}", human(used), human(total));
    [
        vm.id.clone(),
        vm.name.clone(),
        stats.cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %")),
        of(guest.memory_total.saturating_sub(guest.memory_available), guest.memory_total),
        human(stats.host_memory),
        of(guest.overlay.used, guest.overlay.total),
        of(guest.work.used, guest.work.total),
        of(guest.net_rx, guest.net_tx),
    ]
}
