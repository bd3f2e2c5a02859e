//! What an instance's store holds: the component it is of, and the state of each capability.

use std::{collections::HashMap, sync::Arc};

use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    WasiHttpCtx,
    p3::{WasiHttpCtxView, WasiHttpView},
};

use crate::{allowed_hosts::AllowedHosts, logs::Logs, outbound_http::OutboundHttp, sqlite::Database};

/// What a component may do, and with what: the same for all its instances.
pub(crate) struct Component {
    pub(crate) id: String,
    pub(crate) variables: HashMap<String, String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) allowed_hosts: Arc<AllowedHosts>,
    /// The database `default`, if granted.
    pub(crate) database: Option<Arc<Database>>,
    pub(crate) logs: Logs,
}

/// The state of one instance.
pub(crate) struct Host {
    pub(crate) component: Arc<Component>,
    pub(crate) table: ResourceTable,
    /// How many of the table's entries are connections to SQLite, which are limited.
    pub(crate) sqlite_connections: usize,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound_http: OutboundHttp,
}

impl Host {
    pub(crate) fn new(component: Arc<Component>, outbound_http: OutboundHttp) -> Self {
        let (stdout, stderr) = component.logs.instance();
        // No files, no sockets, nothing of the host's own environment.
        let wasi = WasiCtxBuilder::new().stdout(stdout).stderr(stderr).envs(&component.environment).build();
        Self {
            component,
            table: ResourceTable::new(),
            sqlite_connections: 0,
            wasi,
            http: WasiHttpCtx::new(),
            outbound_http,
        }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound_http, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Tells the generated code that the interfaces of Spin are implemented for [`Host`].
pub(crate) struct Capabilities;

impl HasData for Capabilities {
    type Data<'a> = &'a mut Host;
}
