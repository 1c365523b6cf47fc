//! `banger kernel`.

use hyper::Method;
use model::size::human;
use wire::control::{ImportKernel, Kernel, Kernels, Outcome, PullKernel};

use super::{Context, absolute, catalogs, several};
use crate::{
    args::{ImportKernelArgs, KernelCommand, Output, PullKernelArgs},
    client::{Body, empty, json, path},
    error::Error,
    progress::Progress,
    signals::Signals,
    talk::{print, print_json},
    text::{age, fields, table, timestamp, visible},
};

/// `banger kernel`.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: KernelCommand) -> Result<(), Error> {
    match command {
        KernelCommand::Import(args) => import(context, args).await,
        KernelCommand::Promote { name } => {
            made(context, &path(&["kernels", name.as_str(), "promote"]), empty()).await
        }
        KernelCommand::Pull(args) => pull(context, args).await,
        KernelCommand::List(args) if args.available => {
            catalogs::list(context, "kernels", args.format.output).await
        }
        KernelCommand::List(args) => list(context, args.format.output).await,
        KernelCommand::Show { name, format } => {
            let kernel: Kernel = context.client.get(&path(&["kernels", name.as_str()])).await?;
            match format.output {
                Output::Json => print_json(&kernel),
                Output::Text => print(&describe(&kernel)),
            }
        }
        KernelCommand::Rm { names } => {
            several::each(context, &names, async |name| {
                context.client.send(Method::DELETE, &path(&["kernels", name.as_str()])).await?;
                Ok(name.to_string())
            })
            .await
        }
    }
}

async fn list(context: &Context, output: Output) -> Result<(), Error> {
    let kernels: Kernels = context.client.get(&path(&["kernels"])).await?;
    if output == Output::Json {
        return print_json(&kernels);
    }
    let now = host::clock::now_ms();
    let row = |kernel: &Kernel| {
        [
            kernel.name.clone(),
            kernel.release.clone(),
            human(kernel.size),
            age(now, kernel.created_ms),
            kernel.source.clone(),
        ]
    };
    let rows: Vec<_> = kernels.kernels.iter().map(row).collect();
    print(&table(["NAME", "RELEASE", "SIZE", "IMPORTED", "SOURCE"], &rows))
}

fn describe(kernel: &Kernel) -> String {
    fields(&[
        ("name", kernel.name.clone()),
        ("release", kernel.release.clone()),
        ("source", kernel.source.clone()),
        ("size", human(kernel.size)),
        ("imported", timestamp(kernel.created_ms)),
        ("used by", kernel.used_by.join("\n")),
    ])
}

async fn import(context: &Context, args: ImportKernelArgs) -> Result<(), Error> {
    let source = match args.from {
        Some(from) => {
            // Looked at here, where the user's working directory is, before the daemon is asked.
            host::fs::open(&from)?;
            let path = absolute(&from)?;
            if args.in_place { ImportKernel::InPlace(path) } else { ImportKernel::Path(path) }
        }
        None if args.host => ImportKernel::Host,
        None => ImportKernel::Distribution,
    };
    let target = path(&["kernels", args.name.as_str(), "import"]);
    made(context, &target, json(&source)).await
}

async fn pull(context: &Context, args: PullKernelArgs) -> Result<(), Error> {
    let target = path(&["kernels", args.name.as_str(), "pull"]);
    made(context, &target, json(&PullKernel { force: args.force })).await
}

/// Follows the operation that makes a kernel, and prints the kernel's name.
async fn made(context: &Context, target: &str, body: Body) -> Result<(), Error> {
    let work = async {
        let mut events = context.client.operate(Method::POST, target, body).await?;
        match Progress::new(&context.talk).follow(&mut events).await? {
            Outcome::Kernel(kernel) => print(&format!("{}\n", visible(&kernel.name))),
            Outcome::None
            | Outcome::Vm(_)
            | Outcome::Image(_)
            | Outcome::Snapshot(_)
            | Outcome::Prepared(_)
            | Outcome::Exported(_) => Ok(()),
        }
    };
    Signals::ending()?.unless(work).await
}
