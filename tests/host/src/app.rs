//! The application: the engine with Spin's settings, and each component compiled (or taken from the cache) and
//! linked to what it imports, so that what it lacks is known at the start.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use wasmtime::{
    Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component as Wasm, InstancePre, Linker},
};

use crate::{
    allowed_hosts::AllowedHosts,
    bindings::Subscriber,
    host::{Capabilities, Component, Host},
    logs::{Logs, say},
    manifest::{self, Manifest},
    outbound_http::{Connections, OutboundHttp},
    sqlite::Database,
    variables::Variables,
};

const MIB: usize = 1 << 20;

/// A component that is ready to be instantiated.
pub(crate) struct Loaded {
    pub(crate) component: Arc<Component>,
    pub(crate) pre: InstancePre<Host>,
    outbound_http: OutboundHttp,
}

impl Loaded {
    /// A store for one new instance.
    pub(crate) fn store(&self) -> Store<Host> {
        let host = Host::new(self.component.clone(), self.outbound_http.clone());
        let mut store = Store::new(self.pre.engine(), host);
        // The engine counts epochs as Spin's does, since the code for it costs time, but nothing has a deadline.
        store.set_epoch_deadline(u64::MAX / 2);
        store
    }
}

/// Loads every component that a trigger calls. Faults go to `faults`, and a component with one is left out.
pub(crate) fn load(
    manifest: &Manifest,
    folder: &Path,
    state_dir: &Path,
    variables: &Variables,
    quiet: bool,
    faults: &mut Vec<String>,
) -> Result<BTreeMap<String, Arc<Loaded>>> {
    let engine = engine()?;
    let linker = linker(&engine)?;
    let connections = Connections::new();
    let database = Arc::new(Database { path: state_dir.join("sqlite_db.db") });
    let mut compiled: HashMap<PathBuf, Result<Wasm, String>> = HashMap::new();
    let mut loaded = BTreeMap::new();
    for (id, declared) in manifest.triggered() {
        let source = folder.join(&declared.source);
        if !source.is_file() {
            // Reported with the manifest's faults.
            continue;
        }
        let wasm = compiled
            .entry(source)
            .or_insert_with_key(|path| Wasm::from_file(&engine, path).map_err(|error| format!("{error:#}")));
        let linked = wasm.as_ref().map_err(Clone::clone).and_then(|wasm| {
            check_grants(&engine, wasm, declared)?;
            linker
                .instantiate_pre(wasm)
                .map_err(|error| format!("imports what this host does not implement: {error:#}"))
        });
        let pre = match linked {
            Ok(pre) => pre,
            Err(fault) => {
                faults.push(format!("component {id:?}: {fault}"));
                continue;
            }
        };
        let hosts = Arc::new(AllowedHosts::new(id, &declared.allowed_outbound_hosts, variables));
        let component = Component {
            id: id.into(),
            variables: declared.variables.iter().map(|(name, value)| (name.clone(), variables.expand(value))).collect(),
            environment: declared.environment.clone().into_iter().collect(),
            allowed_hosts: hosts.clone(),
            database: (!declared.sqlite_databases.is_empty()).then(|| database.clone()),
            logs: Logs::open(&state_dir.join("logs"), id, quiet)?,
        };
        loaded.insert(
            id.into(),
            Arc::new(Loaded {
                component: Arc::new(component),
                pre,
                outbound_http: OutboundHttp::new(hosts, connections.clone()),
            }),
        );
    }
    Ok(loaded)
}

/// Spin lets such a component start and refuses each `open`.
fn check_grants(engine: &Engine, wasm: &Wasm, declared: &manifest::Component) -> Result<(), String> {
    let uses_sqlite = wasm.component_type().imports(engine).any(|(name, _)| name.starts_with("spin:sqlite/"));
    if uses_sqlite && declared.sqlite_databases.is_empty() {
        return Err("uses SQLite (it imports spin:sqlite/sqlite), but is granted no database: \
                    add `sqlite_databases = [\"default\"]` to its section of the manifest"
            .into());
    }
    Ok(())
}

fn engine() -> Result<Engine> {
    let cache = match Cache::new(CacheConfig::new()) {
        Ok(cache) => Some(cache),
        Err(error) => {
            say(format!("Components are compiled at each start: the cache cannot be used: {error:#}"));
            None
        }
    };
    let config = |pooling| {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .wasm_component_model(true)
            .wasm_component_model_async(true)
            .cache(cache.clone());
        if pooling {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        }
        // `perf` then names the components' functions; build them with CARGO_PROFILE_RELEASE_STRIP=none.
        if std::env::var_os("CLINIC_HOST_PERF_MAP").is_some() {
            config.profiler(wasmtime::ProfilingStrategy::PerfMap);
        }
        config
    };
    // The pool reserves terabytes of address space, which some machines do not have.
    Engine::new(&config(true))
        .or_else(|_| Engine::new(&config(false)))
        .map_err(anyhow::Error::from)
        .context("cannot make an engine")
}

/// Spin's sizes.
fn pool() -> PoolingAllocationConfig {
    let instances = 1_000;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_memories(instances)
        .total_tables(2 * instances)
        .total_stacks(instances)
        .total_core_instances(4 * instances)
        .table_elements(100_000)
        .max_component_instance_size(10 * MIB)
        .max_core_instance_size(10 * MIB)
        .max_core_instances_per_component(200)
        .max_tables_per_component(64)
        .max_memories_per_component(32)
        .max_tables_per_module(2)
        .max_memories_per_module(2)
        .max_memory_size(4096 * MIB)
        .linear_memory_keep_resident(2 * MIB)
        .table_keep_resident(MIB / 2);
    pool
}

fn linker(engine: &Engine) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    Subscriber::add_to_linker::<_, Capabilities>(&mut linker, |host| host)?;
    Ok(linker)
}
