//! Records of VMs: what each is, and what was last intended.

use std::{
    num::NonZeroU16,
    sync::{Arc, LazyLock, OnceLock},
};

use model::{
    GroupName, OperationId, VmId, VmName,
    network::{HostLoopback, Link, Nat, Network},
    sizing::{Origin, Sizing},
    undo::{NewDisk, Undo},
    vm::State,
};
use rusqlite::{Connection, Row, params};

use crate::{
    Answer, Error, News, Ready, Result, Store, known,
    lease::{Numbers, lowest_free, number_of},
};

/// A VM's size with the origin of each value; see [`Sizing`].
pub type Sizes = Sizing;

/// A VM's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Where it is in its life.
    pub state: State,
    /// Why, for `stopped` and `error`.
    pub reason: Option<String>,
    /// The id of its image.
    pub image: String,
    /// The id of its kernel.
    pub kernel: String,
    /// The VMM that runs it.
    pub vmm: String,
    /// Its size.
    pub sizes: Sizes,
    /// Its network.
    pub network: Network,
    /// Its group on the bridge.
    pub group: Option<GroupName>,
    /// Who runs commands where no user is said; without it root.
    pub user: Option<String>,
    /// Variables for its commands, JSON.
    pub env: String,
    /// What makes it ready, where that was said.
    pub ready: Option<Ready>,
    /// Deleted when its owner goes.
    pub rm: bool,
    /// `/etc/machine-id` of its guest.
    pub machine_id: String,
    /// The secret of the agent's channel in hexadecimal, while it runs.
    pub secret: Option<String>,
    /// The build of the VMM that it was last started with.
    pub build: Option<String>,
    /// Whether banger put what may be secret into it.
    pub has_secrets: bool,
    /// The id of the snapshot that it is being made of, until it runs.
    pub snapshot: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was last started.
    pub started_ms: Option<u64>,
    /// What its last start spent its time on, JSON.
    pub timeline: String,
}

/// What became of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmNews {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Where it is in its life; `None` where its record is gone.
    pub state: Option<State>,
    /// Why.
    pub reason: Option<String>,
    /// Its network.
    pub network: Network,
}

impl VmNews {
    /// What there is to tell of the VM of this record.
    #[must_use]
    pub fn of(vm: &Vm) -> Self {
        let (name, reason) = (vm.name.to_string(), vm.reason.clone());
        Self { id: vm.id, name, state: Some(vm.state), reason, network: vm.network }
    }
}

/// What a start begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starting {
    /// The secret of the agent's channel in hexadecimal.
    pub secret: String,
    /// What its card is connected to.
    pub link: Option<Link>,
    /// The build of its VMM.
    pub build: String,
    /// Whether it is given what may be secret.
    pub has_secrets: bool,
}

/// What a reservation gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The number that the VM has in the bridge's subnet, if it is to have one.
    pub number: Option<u16>,
    /// The number of its group, if it is in one.
    pub group: Option<NonZeroU16>,
    /// The entry of the ledger that takes the record back.
    pub entry: Option<i64>,
}

const COLUMNS: &str = "id, name, state, reason, image, kernel, vmm, vcpu, vcpu_origin, memory, memory_origin, disk, \
     disk_origin, overlay, overlay_origin, env, ready, rm, machine_id, secret, created_ms, started_ms, timeline, \
     nat, host_loopback, link, host_number, group_number, group_name, build, has_secrets, snapshot, user_name";

const ORIGINS: [(Origin, &str); 4] = [
    (Origin::Request, "request"),
    (Origin::Config, "config"),
    (Origin::Host, "host"),
    (Origin::Default, "default"),
];

fn origin_name(origin: Origin) -> &'static str {
    ORIGINS.iter().find(|(o, _)| *o == origin).expect("all are listed").1
}

fn read_origin(row: &Row<'_>, column: usize) -> Result<Origin> {
    known("origin", row.get(column)?, |name| ORIGINS.iter().find(|(_, n)| *n == name).map(|(o, _)| *o))
}

/// The network in five columns of `row`, of which the first is `from`.
fn read_network(row: &Row<'_>, from: usize) -> Result<Network> {
    let link: Option<String> = row.get(from + 2)?;
    Ok(Network {
        nat: Nat::of(row.get(from)?),
        loopback: if row.get(from + 1)? { HostLoopback::Allowed } else { HostLoopback::Closed },
        link: link.map(|link| known("link", link, Link::from_name)).transpose()?,
        number: row.get(from + 3)?,
        group: row.get::<_, Option<u16>>(from + 4)?.and_then(NonZeroU16::new),
    })
}

fn read(row: &Row<'_>) -> Result<Vm> {
    let bytes = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let ready: Option<String> = row.get(16)?;
    let group: Option<String> = row.get(28)?;
    Ok(Vm {
        id: known("VM id", row.get(0)?, |id| VmId::try_from(id).ok())?,
        name: known("VM name", row.get(1)?, |name| VmName::try_from(name).ok())?,
        state: known("state", row.get(2)?, State::from_name)?,
        reason: row.get(3)?,
        image: row.get(4)?,
        kernel: row.get(5)?,
        vmm: row.get(6)?,
        sizes: Sizing {
            vcpu: (row.get(7)?, read_origin(row, 8)?),
            memory: (bytes(9)?, read_origin(row, 10)?),
            disk: (bytes(11)?, read_origin(row, 12)?),
            overlay: (bytes(13)?, read_origin(row, 14)?),
        },
        network: read_network(row, 23)?,
        group: group.map(|name| known("group", name, |name| GroupName::try_from(name).ok())).transpose()?,
        user: row.get(32)?,
        env: row.get(15)?,
        ready: ready.map(|r| known("readiness", r, Ready::from_name)).transpose()?,
        rm: row.get(17)?,
        machine_id: row.get(18)?,
        secret: row.get(19)?,
        created_ms: bytes(20)?,
        started_ms: row.get::<_, Option<i64>>(21)?.map(i64::cast_unsigned),
        timeline: row.get(22)?,
        build: row.get(29)?,
        has_secrets: row.get(30)?,
        snapshot: row.get(31)?,
    })
}

impl Store {
    /// Reserves the VM in one transaction: its exact name is free, its image and kernel are still there, and where it is to have
    /// one of `numbers`, the lowest free one is its own from now on; of its group it has the number. Where it is `made` by an
    /// operation that is not through with that, the ledger knows how to take the record back. `reply` is told of it on another
    /// thread, or dropped where the database is closed.
    ///
    /// The errors are [`Error::Taken`]; [`Error::Missing`] where the image, kernel or snapshot went meanwhile; [`Error::NoAddress`]; or
    /// that the database cannot be written.
    pub fn vm_insert(
        &self,
        vm: Vm,
        numbers: Option<Numbers>,
        made: Option<&OperationId>,
        reply: impl FnOnce(Answer<Reserved>) + Send + 'static,
    ) {
        let made = made.map(OperationId::to_string);
        let id = vm.id;
        let inserted = VmNews::of(&vm);
        let work = move |db: &Connection| {
            let mut vm = vm;
            vm.network.number = numbers.map(|numbers| lowest_free(db, &numbers)).transpose()?;
            if let Some(group) = &vm.group {
                vm.network.group = number_of(db, group)?;
            }
            insert(db, &vm)?;
            let Network { number, group, .. } = vm.network;
            let Some(operation) = made else { return Ok(Reserved { number, group, entry: None }) };
            open_entry(db, id, &operation, &Undo::Record)?;
            Ok(Reserved { number, group, entry: Some(db.last_insert_rowid()) })
        };
        let news = Arc::clone(&self.news);
        self.transaction_soon(work, move |_| tell(&news, Some(inserted)), reply);
    }

    /// The record of VM `id`.
    ///
    /// # Errors
    /// [`Error::Missing`], or where the database cannot be read.
    pub fn vm_get(&self, id: VmId) -> Result<Vm> {
        self.read(move |db| {
            let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM vm WHERE id = ?"))?;
            let mut rows = statement.query([id.to_string()])?;
            read(rows.next()?.ok_or(Error::Missing)?)
        })
    }

    /// All VMs in order of creation.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn vm_list(&self) -> Result<Vec<Vm>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached(&format!("SELECT {COLUMNS} FROM vm ORDER BY created_ms, rowid"))?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(read(row)?);
            }
            Ok(all)
        })
    }

    /// Whether a VM is called `name`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn vm_is_named(&self, name: &VmName) -> Result<bool> {
        let name = name.to_string();
        self.read(move |db| {
            let sql = "SELECT EXISTS (SELECT 1 FROM vm WHERE name = ?)";
            Ok(db.prepare_cached(sql)?.query_row([name], |row| row.get(0))?)
        })
    }

    /// The VMs whose id or name begins with `text`, in order of creation.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn vm_beginning(&self, text: &str) -> Result<Vec<(VmId, VmName)>> {
        let text = text.to_owned();
        self.read(move |db| {
            let sql = "SELECT id, name FROM vm WHERE substr(id, 1, length(?1)) = ?1 \
                       OR substr(name, 1, length(?1)) = ?1 ORDER BY created_ms, rowid";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query([text])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let id = known("VM id", row.get(0)?, |id| VmId::try_from(id).ok())?;
                all.push((id, known("VM name", row.get(1)?, |name| VmName::try_from(name).ok())?));
            }
            Ok(all)
        })
    }

    /// Notes that VM `id` is in `state` now, and why.
    ///
    /// # Errors
    /// [`Error::Missing`], or where the database cannot be written.
    pub fn vm_state(&self, id: VmId, state: State, reason: Option<String>) -> Result<()> {
        self.update(id, "UPDATE vm SET state = ?2, reason = ?3 WHERE id = ?1", (state.name(), reason))
    }

    /// Notes that VM `id` is starting as `how` says. Where it is to have one of `numbers`, it keeps its own, or gets the lowest
    /// free one; gives the one that it has. What may be secret stays in it.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::NoAddress`]; or where the database cannot be written.
    pub fn vm_starting(&self, id: VmId, how: Starting, numbers: Option<Numbers>) -> Result<Option<u16>> {
        self.change(id, move |db| {
            let id = id.to_string();
            let own = "SELECT host_number FROM vm WHERE id = ?";
            let mut number: Option<u16> = db.prepare_cached(own)?.query_row([&id], |row| row.get(0))?;
            if let Some(numbers) = numbers.filter(|all| number.is_none_or(|own| !all.contains(&own))) {
                number = Some(lowest_free(db, &numbers)?);
            }
            let sql = "UPDATE vm SET state = 'starting', reason = NULL, secret = ?2, link = ?3, host_number = ?4, build = ?5, \
                       has_secrets = has_secrets OR ?6 WHERE id = ?1";
            let Starting { secret, link, build, has_secrets } = how;
            let values = params![id, secret, link.map(Link::name), number, build, has_secrets];
            db.prepare_cached(sql)?.execute(values)?;
            Ok(number)
        })
    }

    /// Notes what VM `id` is to have of a network from now on.
    ///
    /// # Errors
    /// [`Error::Missing`], or where the database cannot be written.
    pub fn vm_nat(&self, id: VmId, nat: Nat, loopback: HostLoopback) -> Result<()> {
        let values = (nat.is_on(), loopback == HostLoopback::Allowed);
        self.update(id, "UPDATE vm SET nat = ?2, host_loopback = ?3 WHERE id = ?1", values)
    }

    /// Notes that VM `id` runs since `started_ms`, and what its start spent its time on. In the same transaction its
    /// creation is through, and its disks, which hold a guest's work from now on, are not this start's to undo any more.
    ///
    /// # Errors
    /// [`Error::Missing`], or where the database cannot be written.
    pub fn vm_started(&self, id: VmId, started_ms: u64, timeline: String) -> Result<()> {
        self.change(id, move |db| {
            let id = id.to_string();
            let sql = "UPDATE vm SET state = 'running', reason = NULL, started_ms = ?2, timeline = ?3, snapshot = NULL \
                       WHERE id = ?1";
            if db.prepare_cached(sql)?.execute(params![id, started_ms.cast_signed(), timeline])? == 0 {
                return Err(Error::Missing);
            }
            for undo in NewDisk::ALL.map(Undo::Disk).into_iter().chain([Undo::Record]) {
                forget(db, &id, &undo)?;
            }
            Ok(())
        })
    }

    /// Notes that VM `id` is kept in `error` for its logs, also where it was to be deleted with its owner.
    ///
    /// # Errors
    /// [`Error::Missing`], or where the database cannot be written.
    pub fn vm_failed(&self, id: VmId, reason: String) -> Result<()> {
        self.change(id, move |db| {
            let id = id.to_string();
            let sql = "UPDATE vm SET state = 'error', reason = ?2, rm = 0, snapshot = NULL WHERE id = ?1";
            if db.prepare_cached(sql)?.execute([&id, &reason])? == 0 {
                return Err(Error::Missing);
            }
            forget(db, &id, &Undo::Record)
        })
    }

    /// Notes that VM `id` has this size now.
    ///
    /// # Errors
    /// [`Error::Missing`], or where the database cannot be written.
    pub fn vm_sizes(&self, id: VmId, sizes: Sizes) -> Result<()> {
        self.transaction(move |db| {
            let sql = "UPDATE vm SET vcpu = ?2, vcpu_origin = ?3, memory = ?4, memory_origin = ?5, disk = ?6, \
                       disk_origin = ?7, overlay = ?8, overlay_origin = ?9 WHERE id = ?1";
            let changed = db.prepare_cached(sql)?.execute(params![
                id.to_string(),
                sizes.vcpu.0,
                origin_name(sizes.vcpu.1),
                sizes.memory.0.cast_signed(),
                origin_name(sizes.memory.1),
                sizes.disk.0.cast_signed(),
                origin_name(sizes.disk.1),
                sizes.overlay.0.cast_signed(),
                origin_name(sizes.overlay.1),
            ])?;
            if changed == 0 { Err(Error::Missing) } else { Ok(()) }
        })
    }

    /// Notes that VM `id` is of image `image` now, which is still there, and what became of it; and in the same transaction
    /// that its old overlay is to go.
    ///
    /// # Errors
    /// [`Error::Missing`] where the VM or the image is not there; or where the database cannot be written.
    pub fn vm_reset(&self, id: VmId, image: String, state: State, operation: &OperationId) -> Result<()> {
        let operation = operation.to_string();
        self.change(id, move |db| {
            let sql = "UPDATE vm SET image = ?2, state = ?3, reason = NULL \
                       WHERE id = ?1 AND EXISTS (SELECT 1 FROM image WHERE id = ?2)";
            if db.prepare_cached(sql)?.execute([id.to_string(), image, state.name().to_owned()])? == 0 {
                return Err(Error::Missing);
            }
            open_entry(db, id, &operation, &Undo::OldOverlay)
        })
    }

    /// Removes the record of VM `id`, and what the ledger has for that.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn vm_delete(&self, id: VmId) -> Result<()> {
        let news = Arc::clone(&self.news);
        let work = move |db: &Connection| {
            let removed = news_of(db, id)?.map(|news| VmNews { state: None, reason: None, ..news });
            let id = id.to_string();
            db.prepare_cached("DELETE FROM vm WHERE id = ?")?.execute([&id])?;
            forget(db, &id, &Undo::Record)?;
            Ok(removed)
        };
        self.transaction_then(work, move |removed| tell(&news, removed.clone())).map(drop)
    }

    /// Runs `work`, which changes VM `id`, in one transaction, and tells of it.
    fn change<T: Send + 'static>(
        &self,
        id: VmId,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let news = Arc::clone(&self.news);
        let work = move |db: &Connection| {
            let value = work(db)?;
            Ok((value, news_of(db, id)?))
        };
        self.transaction_then(work, move |(_, changed)| tell(&news, changed.clone())).map(|(value, _)| value)
    }

    fn update<A, B>(&self, id: VmId, sql: &'static str, (a, b): (A, B)) -> Result<()>
    where
        A: rusqlite::ToSql + Send + 'static,
        B: rusqlite::ToSql + Send + 'static,
    {
        self.change(id, move |db| match db.prepare_cached(sql)?.execute(params![id.to_string(), a, b])? {
            0 => Err(Error::Missing),
            _ => Ok(()),
        })
    }
}

fn insert(db: &Connection, vm: &Vm) -> Result<()> {
    let is_there = |sql: &str, words: &[&str]| -> Result<bool> {
        Ok(db.prepare_cached(sql)?.query_row(rusqlite::params_from_iter(words), |row| row.get(0))?)
    };
    if is_there("SELECT EXISTS (SELECT 1 FROM vm WHERE name = ?)", &[vm.name.as_str()])? {
        return Err(Error::Taken(vm.name.to_string()));
    }
    let sources =
        "SELECT EXISTS (SELECT 1 FROM image WHERE id = ?) AND EXISTS (SELECT 1 FROM kernel WHERE id = ?)";
    if !is_there(sources, &[&vm.image, &vm.kernel])? {
        return Err(Error::Missing);
    }
    if let Some(id) = &vm.snapshot
        && !is_there("SELECT EXISTS (SELECT 1 FROM snapshot WHERE id = ?)", &[id])?
    {
        return Err(Error::Missing);
    }
    static INSERT: LazyLock<String> = LazyLock::new(|| {
        let marks = vec!["?"; COLUMNS.split(',').count()].join(", ");
        format!("INSERT INTO vm ({COLUMNS}) VALUES ({marks})")
    });
    db.prepare_cached(&INSERT)?.execute(params![
        vm.id.to_string(),
        vm.name.as_str(),
        vm.state.name(),
        vm.reason,
        vm.image,
        vm.kernel,
        vm.vmm,
        vm.sizes.vcpu.0,
        origin_name(vm.sizes.vcpu.1),
        vm.sizes.memory.0.cast_signed(),
        origin_name(vm.sizes.memory.1),
        vm.sizes.disk.0.cast_signed(),
        origin_name(vm.sizes.disk.1),
        vm.sizes.overlay.0.cast_signed(),
        origin_name(vm.sizes.overlay.1),
        vm.env,
        vm.ready.map(Ready::name),
        vm.rm,
        vm.machine_id,
        vm.secret,
        vm.created_ms.cast_signed(),
        vm.started_ms.map(u64::cast_signed),
        vm.timeline,
        vm.network.nat.is_on(),
        vm.network.loopback == HostLoopback::Allowed,
        vm.network.link.map(Link::name),
        vm.network.number,
        vm.network.group.map(NonZeroU16::get),
        vm.group.as_ref().map(GroupName::as_str),
        vm.build,
        vm.has_secrets,
        vm.snapshot,
        vm.user,
    ])?;
    Ok(())
}

fn open_entry(db: &Connection, id: VmId, operation: &str, undo: &Undo) -> Result<()> {
    db.prepare_cached("INSERT INTO ledger (vm, operation, kind, detail) VALUES (?, ?, ?, ?)")?.execute([
        &*id.to_string(),
        operation,
        undo.kind(),
        &undo.detail(),
    ])?;
    Ok(())
}

/// Removes what the ledger has of that kind for the VM.
fn forget(db: &Connection, id: &str, undo: &Undo) -> Result<()> {
    db.prepare_cached("DELETE FROM ledger WHERE vm = ? AND kind = ?")?.execute([id, undo.kind()])?;
    Ok(())
}

/// VM `id` as it is told of.
fn news_of(db: &Connection, id: VmId) -> Result<Option<VmNews>> {
    let sql = "SELECT name, state, reason, nat, host_loopback, link, host_number, group_number FROM vm WHERE id = ?";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([id.to_string()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let state = Some(known("state", row.get(1)?, State::from_name)?);
    let (name, reason, network) = (row.get(0)?, row.get(2)?, read_network(row, 3)?);
    Ok(Some(VmNews { id, name, state, reason, network }))
}

fn tell(news: &OnceLock<News>, what: Option<VmNews>) {
    if let (Some(listener), Some(what)) = (news.get(), what) {
        listener(what);
    }
}
