//! Names below `.vm` for this host: systemd-resolved asks banger's server for them, at the loopback, and for nothing else.
//!
//! resolved keeps that with the bridge's link, and only of a link that has a carrier, so the bridge has a port that always gives it one.
//! It is said anew to each bridge and each resolved, whenever one came back; with the link it goes.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use host::{
    fs,
    links::{Link, Links, Passage, Reach},
    proc::{Command, Exit, Program},
    sock,
};

use crate::places::Places;

/// The port of the bridge that gives it a carrier.
pub const CARRIER: &str = "banger-carrier";
/// The names that are routed: those below it, and it is no suffix to search.
const DOMAIN: &str = "~vm";
/// How long resolved may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most that is kept of what it says.
const SAID: usize = 512;

/// Why the host's resolver was not told.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// There is none that could be.
    #[error("systemd-resolved does not run here")]
    NoResolver,
    /// It does not take it.
    #[error("systemd-resolved refuses: {0}")]
    Refused(String),
    /// Something of the host.
    #[error(transparent)]
    Host(#[from] host::Error),
}

/// What the host's resolver is to know.
#[derive(Debug)]
pub struct Names {
    file: PathBuf,
    resolved: PathBuf,
    port: Option<NonZeroU16>,
    /// The link, and the resolved, that it was said to.
    said: Option<(u32, (u64, i128))>,
}

impl Names {
    /// As it was asked for before, as far as that is known.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn read(places: &Places) -> host::Result<Self> {
        let file = places.names();
        let port = match fs::read_text(&file) {
            Ok(text) => text.trim().parse().ok(),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file, resolved: places.resolved(), port, said: None })
    }

    /// From now on it is to ask at `port`, or nobody.
    ///
    /// # Errors
    /// Where that cannot be noted.
    pub fn want(&mut self, port: Option<NonZeroU16>) -> host::Result<()> {
        match port {
            Some(port) => fs::write_atomic(&self.file, port.to_string().as_bytes())?,
            None => fs::remove(&self.file)?,
        }
        // Whoever asks wants it said, also where it was said already.
        (self.port, self.said) = (port, None);
        Ok(())
    }

    /// Whether it is to ask anybody.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.port.is_some()
    }

    /// Whether the resolver that runs now was told of `bridge`.
    #[must_use]
    pub fn are_said(&self, bridge: &Link) -> bool {
        let running = fs::identity(&self.resolved).ok();
        self.said.is_some_and(|(link, resolved)| link == bridge.index && Some(resolved) == running)
    }

    /// Tells the resolver of `bridge`, unless it was told.
    ///
    /// # Errors
    /// Where there is none, or it does not take it.
    pub fn say(&mut self, links: &mut Links, bridge: &Link) -> Result<(), NamesError> {
        let Some(port) = self.port.filter(|_| !self.are_said(bridge)) else { return Ok(()) };
        // The socket of one that ended may be left.
        sock::connect(&self.resolved).map_err(|_| NamesError::NoResolver)?;
        let resolved = fs::identity(&self.resolved).map_err(|_| NamesError::NoResolver)?;
        carry(links, bridge)?;
        // In this order: there is no moment at which it would ask there for anything else.
        tell(&["domain", &bridge.name, DOMAIN])?;
        tell(&["default-route", &bridge.name, "no"])?;
        tell(&["dnssec", &bridge.name, "no"])?;
        tell(&["dns", &bridge.name, &format!("127.0.0.1:{port}")])?;
        self.said = Some((bridge.index, resolved));
        Ok(())
    }

    /// The resolver asks nobody for the names, and the carrier is gone.
    ///
    /// # Errors
    /// Where it does not take that.
    pub fn unsay(&mut self, links: &mut Links, bridge: Option<&Link>) -> Result<(), NamesError> {
        self.want(None)?;
        if let Some(bridge) = bridge.filter(|_| sock::connect(&self.resolved).is_ok()) {
            tell(&["revert", &bridge.name])?;
        }
        match links.find(CARRIER)?.filter(|link| link.kind == "dummy") {
            Some(carrier) => Ok(links.remove(&carrier)?),
            None => Ok(()),
        }
    }
}

/// The bridge has a port that gives it a carrier and takes part in nothing else.
fn carry(links: &mut Links, bridge: &Link) -> host::Result<()> {
    if links.find(CARRIER)?.is_none() {
        links.add_dummy(CARRIER)?;
    }
    let Some(carrier) = links.find(CARRIER)? else { return Ok(()) };
    if carrier.bridge != Some(bridge.index) {
        links.attach(&carrier, bridge)?;
        links.reach(&carrier, Reach::Alone)?;
    }
    links.set(&carrier, Passage::Up)
}

fn tell(words: &[&str]) -> Result<(), NamesError> {
    fs::program_of_root(&Program::Resolvectl.path()?)?;
    let output = Command::new(Program::Resolvectl).args(words.iter().copied()).output(SAID, PATIENCE)?;
    match output.exit {
        Exit::Code(0) => Ok(()),
        _ => Err(NamesError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
