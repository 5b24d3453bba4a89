//! What must outlive a crash: attachments and leases, in one transactional database.
//!
//! Each operation is one transaction, on disk when it returns. An attachment is reserved
//! (recorded as [`Phase::Intent`], with its address and port) before anything is made in the
//! kernel, and committed when all of it works; what start-up finds as an intent was cut short and
//! is to be undone.

mod record;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use crate::config::PortDevice;
use crate::ipam::{Pool, Pools};
use crate::mac::Mac;

pub use record::{Attachment, DevicePool, HostFacts, Key, NetnsId, Phase, Reservation};

/// Version of the tables below; a database with a greater one is refused.
const SCHEMA: u64 = 1;

/// `schema` → version.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// (container id, interface) → [`Attachment`] as JSON.
const ATTACHMENTS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("attachments");
/// Address (4 or 16 bytes) → (container id, interface).
const LEASES: TableDefinition<&[u8], (&str, &str)> = TableDefinition::new("leases");
/// Port → (container id, interface).
const PORTS: TableDefinition<u16, (&str, &str)> = TableDefinition::new("ports");
/// Network → the IPv4 address given last, as a number.
const CURSORS: TableDefinition<&str, u32> = TableDefinition::new("cursors");
/// Network → the IPv6 address given last, as a number. Versions for IPv4 only do not look at it.
const CURSORS6: TableDefinition<&str, u128> = TableDefinition::new("cursors6");

/// Why the state could not be read or changed; nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state directory cannot be used.
    #[error("the state directory {} cannot be used: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has the database open.
    #[error("the database {} is in use by another process: another culvertd runs with this state_dir; stop it, or set another one", .0.display())]
    InUse(PathBuf),
    /// The database was written by a newer culvert.
    #[error("the database {} has schema {found}, this culvertd knows {SCHEMA}: it was written by a newer version; run that one, or drain the node and move the file away", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// The database cannot be opened.
    #[error("the database {} cannot be opened: {source}", .path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// A transaction failed.
    #[error("the database failed: {0}")]
    Database(#[source] Box<redb::Error>),
    /// A record is not what this version writes.
    #[error("the record of container {}, interface {} is damaged: {source}", .key.container_id, .key.ifname)]
    Damaged {
        /// Whose record.
        key: Key,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The key is taken.
    #[error("container {} has an interface {} already, with address {} in {}; delete it first", .0.key.container_id, .0.key.ifname, list(&.0.addresses), .0.netns)]
    Duplicate(Box<Attachment>),
    /// There is no such attachment.
    #[error("container {} has no interface {} made by culvert", .0.container_id, .0.ifname)]
    Unknown(Key),
    /// The address asked for is never given.
    #[error("address {address} cannot be given: it {problem} {}", .pool.block())]
    NotInPool {
        /// The address asked for.
        address: IpAddr,
        /// Why not.
        problem: &'static str,
        /// The pool.
        pool: Pool,
    },
    /// The node has no addresses of the IP version asked for.
    #[error("address {address} cannot be given: this node has no {} block in network {network}", version(*.address))]
    NoPool {
        /// The address asked for.
        address: IpAddr,
        /// The network's name.
        network: String,
    },
    /// The address asked for is taken.
    #[error("address {address} is in use by container {}, interface {}", .by.container_id, .by.ifname)]
    AddressInUse {
        /// The address asked for.
        address: IpAddr,
        /// Who has it.
        by: Key,
    },
    /// No address is left.
    #[error("no address is left for network {}: all {} pod addresses of {} are in use", .0.network(), .0.size(), .0.block())]
    PoolExhausted(Pool),
    /// No port is left.
    #[error("no port is left: all of {} to {} are in use", .0.start(), .0.end())]
    PortsExhausted(RangeInclusive<u16>),
    /// No device of the pool is left.
    #[error("no device is left: all {} of offload.devices{} are with pods or gone; `culvert status` names those that are gone", .0.len(), ends(.0))]
    DevicesExhausted(Vec<PortDevice>),
}

fn version(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The first and the last of some devices.
fn ends(devices: &[PortDevice]) -> String {
    match devices {
        [] => String::new(),
        [only] => format!(" ({})", only.name),
        [first, .., last] => format!(" ({} to {})", first.name, last.name),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Turns redb's error types, one an operation, into ours.
fn db(error: impl Into<redb::Error>) -> StateError {
    StateError::Database(Box::new(error.into()))
}

/// The database, open; one process at a time can have it.
#[derive(Debug)]
pub struct Store {
    database: Database,
    pools: Pools,
    ports: RangeInclusive<u16>,
}

impl Store {
    /// Opens `state_dir/culvert.redb`, makes directory (mode 0700) and database if need be, and
    /// repairs what a crash left.
    ///
    /// New attachments get an address from each of `pools` and their ports from `ports`; those
    /// recorded before keep theirs.
    ///
    /// # Errors
    /// [`StateError::Directory`], [`StateError::InUse`], [`StateError::Newer`] or
    /// [`StateError::Open`].
    pub fn open(
        state_dir: &Path,
        pools: Pools,
        ports: RangeInclusive<u16>,
    ) -> Result<Store, StateError> {
        let directory = |source| StateError::Directory {
            path: state_dir.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(directory)?;
        // A directory that was there before may be open to everybody.
        fs::set_permissions(state_dir, fs::Permissions::from_mode(0o700)).map_err(directory)?;
        let path = state_dir.join("culvert.redb");
        let database = Database::create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StateError::InUse(path.clone()),
            other => StateError::Open {
                path: path.clone(),
                source: Box::new(other.into()),
            },
        })?;
        let store = Store {
            database,
            pools,
            ports,
        };
        store.prepare(path)?;
        Ok(store)
    }

    /// Checks the schema and makes the tables, so that readers always find them.
    fn prepare(&self, path: PathBuf) -> Result<(), StateError> {
        self.write(|txn| {
            let mut meta = txn.open_table(META).map_err(db)?;
            let found = meta.get("schema").map_err(db)?.map(|schema| schema.value());
            match found {
                Some(found) if found > SCHEMA => return Err(StateError::Newer { path, found }),
                Some(_) => {}
                None => drop(meta.insert("schema", SCHEMA).map_err(db)?),
            }
            txn.open_table(ATTACHMENTS).map_err(db)?;
            txn.open_table(LEASES).map_err(db)?;
            txn.open_table(PORTS).map_err(db)?;
            txn.open_table(CURSORS).map_err(db)?;
            txn.open_table(CURSORS6).map_err(db)?;
            Ok(())
        })
    }

    /// Records the intent to attach, with addresses (IPv4 first) and a port of its own.
    ///
    /// # Errors
    /// [`StateError::Duplicate`] if the key is there; [`StateError::NotInPool`],
    /// [`StateError::NoPool`], [`StateError::AddressInUse`], [`StateError::PoolExhausted`],
    /// [`StateError::PortsExhausted`], [`StateError::DevicesExhausted`]; or the database
    /// fails.
    pub fn reserve(&self, key: &Key, wanted: &Reservation) -> Result<Attachment, StateError> {
        self.write(|txn| {
            if let Some(existing) = load(&txn.open_table(ATTACHMENTS).map_err(db)?, key)? {
                return Err(StateError::Duplicate(Box::new(existing)));
            }
            let addresses = self.lease_all(txn, key, &wanted.addresses)?;
            let (port, device) = match &wanted.devices {
                None => (self.take_port(txn, key)?, None),
                Some(devices) => {
                    let device = take_device(txn, key, devices)?;
                    (device.port, Some(device.name))
                }
            };
            let since_1970 = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let attachment = Attachment {
                key: key.clone(),
                phase: Phase::Intent,
                netns: wanted.netns.clone(),
                netns_id: wanted.netns_id,
                mac: wanted.mac.unwrap_or_else(|| Mac::for_pod(&addresses)),
                addresses,
                port,
                device,
                network: self.pools.network().to_owned(),
                configuration: Some(wanted.configuration.clone()),
                host: HostFacts::default(),
                created: since_1970.as_secs(),
            };
            save(txn, &attachment)?;
            Ok(attachment)
        })
    }

    /// Records that the attachment is complete. Repeating it is fine.
    ///
    /// # Errors
    /// [`StateError::Unknown`] if it was not reserved; or the database fails.
    pub fn commit(&self, key: &Key, host: HostFacts) -> Result<Attachment, StateError> {
        self.write(|txn| {
            let found = load(&txn.open_table(ATTACHMENTS).map_err(db)?, key)?;
            let found = found.ok_or_else(|| StateError::Unknown(key.clone()))?;
            let attachment = Attachment {
                phase: Phase::Committed,
                host,
                ..found
            };
            save(txn, &attachment)?;
            Ok(attachment)
        })
    }

    /// Forgets an attachment and frees its address and port; returns what it was. `None` if there
    /// is none, which is no error: DEL may come any number of times.
    ///
    /// # Errors
    /// If the database fails.
    pub fn release(&self, key: &Key) -> Result<Option<Attachment>, StateError> {
        if self.get(key)?.is_none() {
            return Ok(None);
        }
        self.write(|txn| {
            let mut attachments = txn.open_table(ATTACHMENTS).map_err(db)?;
            let Some(found) = load(&attachments, key)? else {
                return Ok(None);
            };
            attachments
                .remove((&*key.container_id, &*key.ifname))
                .map_err(db)?;
            let mut leases = txn.open_table(LEASES).map_err(db)?;
            for address in &found.addresses {
                leases.remove(&*octets(*address)).map_err(db)?;
            }
            txn.open_table(PORTS)
                .map_err(db)?
                .remove(found.port)
                .map_err(db)?;
            Ok(Some(found))
        })
    }

    /// The attachment with this key.
    ///
    /// # Errors
    /// If the database fails or the record is damaged.
    pub fn get(&self, key: &Key) -> Result<Option<Attachment>, StateError> {
        let txn = self.database.begin_read().map_err(db)?;
        load(&txn.open_table(ATTACHMENTS).map_err(db)?, key)
    }

    /// All attachments, ordered by key.
    ///
    /// # Errors
    /// If the database fails or a record is damaged.
    pub fn list(&self) -> Result<Vec<Attachment>, StateError> {
        let txn = self.database.begin_read().map_err(db)?;
        let table = txn.open_table(ATTACHMENTS).map_err(db)?;
        let mut all = Vec::new();
        for entry in table.iter().map_err(db)? {
            let (key, record) = entry.map_err(db)?;
            all.push(decode(&to_key(key.value()), record.value())?);
        }
        Ok(all)
    }

    /// Who has `address`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn holder(&self, address: IpAddr) -> Result<Option<Key>, StateError> {
        let txn = self.database.begin_read().map_err(db)?;
        let leases = txn.open_table(LEASES).map_err(db)?;
        let holder = leases.get(&*octets(address)).map_err(db)?;
        Ok(holder.map(|holder| to_key(holder.value())))
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let txn = self.database.begin_write().map_err(db)?;
        // Dropping the transaction, as an error does, undoes it.
        let value = change(&txn)?;
        txn.commit().map_err(db)?;
        Ok(value)
    }

    fn lease_all(
        &self,
        txn: &WriteTransaction,
        key: &Key,
        wanted: &[IpAddr],
    ) -> Result<Vec<IpAddr>, StateError> {
        if let Some(address) = wanted.iter().find(|a| self.pools.like(**a).is_none()) {
            return Err(StateError::NoPool {
                address: *address,
                network: self.pools.network().to_owned(),
            });
        }
        let mut addresses = Vec::new();
        for pool in self.pools.iter() {
            let wanted = wanted.iter().find(|a| a.is_ipv4() == pool.is_ipv4());
            addresses.push(lease(txn, pool, key, wanted.copied())?);
        }
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Takes the smallest free port.
    fn take_port(&self, txn: &WriteTransaction, key: &Key) -> Result<u16, StateError> {
        let mut table = txn.open_table(PORTS).map_err(db)?;
        let mut taken = table.range(self.ports.clone()).map_err(db)?;
        let mut free = None;
        for port in self.ports.clone() {
            // Both run upwards: the first port that is not the next taken one is free.
            let next = taken.next().transpose().map_err(db)?;
            if next.is_none_or(|(next, _)| next.value() != port) {
                free = Some(port);
                break;
            }
        }
        drop(taken);
        let port = free.ok_or_else(|| StateError::PortsExhausted(self.ports.clone()))?;
        table
            .insert(port, (&*key.container_id, &*key.ifname))
            .map_err(db)?;
        Ok(port)
    }
}

/// Takes the first device whose port nobody has.
fn take_device(
    txn: &WriteTransaction,
    key: &Key,
    devices: &DevicePool,
) -> Result<PortDevice, StateError> {
    let mut table = txn.open_table(PORTS).map_err(db)?;
    for device in &devices.present {
        if table.get(device.port).map_err(db)?.is_none() {
            table
                .insert(device.port, (&*key.container_id, &*key.ifname))
                .map_err(db)?;
            return Ok(device.clone());
        }
    }
    Err(StateError::DevicesExhausted(devices.all.clone()))
}

/// Takes an address of a pool: the one that is wanted, or the next.
fn lease(
    txn: &WriteTransaction,
    pool: &Pool,
    key: &Key,
    wanted: Option<IpAddr>,
) -> Result<IpAddr, StateError> {
    let mut leases = txn.open_table(LEASES).map_err(db)?;
    let address = match wanted {
        Some(address) => check(&leases, pool, address)?,
        None => {
            let free = find_free(&leases, pool, last_given(txn, pool)?)?;
            set_last_given(txn, pool, free)?;
            free
        }
    };
    leases
        .insert(&*octets(address), (&*key.container_id, &*key.ifname))
        .map_err(db)?;
    Ok(address)
}

/// Passes an address that was asked for if it can be given.
fn check(
    leases: &impl ReadableTable<&'static [u8], (&'static str, &'static str)>,
    pool: &Pool,
    address: IpAddr,
) -> Result<IpAddr, StateError> {
    if let Some(problem) = pool.problem(address) {
        return Err(StateError::NotInPool {
            address,
            problem,
            pool: pool.clone(),
        });
    }
    match leases.get(&*octets(address)).map_err(db)? {
        Some(holder) => Err(StateError::AddressInUse {
            address,
            by: to_key(holder.value()),
        }),
        None => Ok(address),
    }
}

fn find_free(
    leases: &impl ReadableTable<&'static [u8], (&'static str, &'static str)>,
    pool: &Pool,
    last: Option<IpAddr>,
) -> Result<IpAddr, StateError> {
    for candidate in pool.candidates(last) {
        if leases.get(&*octets(candidate)).map_err(db)?.is_none() {
            return Ok(candidate);
        }
    }
    Err(StateError::PoolExhausted(pool.clone()))
}

fn last_given(txn: &WriteTransaction, pool: &Pool) -> Result<Option<IpAddr>, StateError> {
    let network = pool.network();
    Ok(if pool.is_ipv4() {
        let cursors = txn.open_table(CURSORS).map_err(db)?;
        let last = cursors.get(network).map_err(db)?;
        last.map(|last| Ipv4Addr::from(last.value()).into())
    } else {
        let cursors = txn.open_table(CURSORS6).map_err(db)?;
        let last = cursors.get(network).map_err(db)?;
        last.map(|last| Ipv6Addr::from(last.value()).into())
    })
}

fn set_last_given(txn: &WriteTransaction, pool: &Pool, address: IpAddr) -> Result<(), StateError> {
    let network = pool.network();
    match address {
        IpAddr::V4(v4) => {
            let mut cursors = txn.open_table(CURSORS).map_err(db)?;
            cursors.insert(network, u32::from(v4)).map_err(db)?;
        }
        IpAddr::V6(v6) => {
            let mut cursors = txn.open_table(CURSORS6).map_err(db)?;
            cursors.insert(network, u128::from(v6)).map_err(db)?;
        }
    }
    Ok(())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn to_key((container_id, ifname): (&str, &str)) -> Key {
    Key {
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    }
}

fn load(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    key: &Key,
) -> Result<Option<Attachment>, StateError> {
    let record = table.get((&*key.container_id, &*key.ifname)).map_err(db)?;
    record.map(|record| decode(key, record.value())).transpose()
}

fn decode(key: &Key, record: &[u8]) -> Result<Attachment, StateError> {
    serde_json::from_slice(record).map_err(|source| StateError::Damaged {
        key: key.clone(),
        source,
    })
}

fn save(txn: &WriteTransaction, attachment: &Attachment) -> Result<(), StateError> {
    let key = &attachment.key;
    let record = serde_json::to_vec(attachment).map_err(|source| StateError::Damaged {
        key: key.clone(),
        source,
    })?;
    let mut table = txn.open_table(ATTACHMENTS).map_err(db)?;
    table
        .insert((&*key.container_id, &*key.ifname), &*record)
        .map_err(db)?;
    Ok(())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
