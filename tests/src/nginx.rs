//! An NGINX of its own, in the lab's proxy namespace.

use crate::haproxy::BACKEND_PORT;
use crate::lab::{Lab, PORT, backend_v4};
use crate::process::Background;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READY: Duration = Duration::from_secs(10);

/// A running NGINX; dropping it ends it. The system's service is another process and
/// is not touched.
#[derive(Debug)]
pub struct Nginx {
    _process: Background,
}

/// The program, where it is installed.
#[must_use]
pub fn installed() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
        .into_iter()
        .map(PathBuf::from)
        .find(|program| program.is_file())
}

impl Nginx {
    /// Balances WebSockets on [`PORT`], IPv4 and IPv6, over the lab's backends.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(program: &Path, lab: &Lab) -> Result<Self> {
        let directory = lab.directory().join("nginx");
        fs::create_dir_all(&directory)?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, text(&directory, lab.backends.len())?)?;
        let mut command = lab.proxy.command(program);
        command
            .arg("-p")
            .arg(&directory)
            .arg("-c")
            .arg(&configuration);
        command.args(["-e", "stderr"]);
        let log = lab.directory().join("nginx.log");
        let mut process = Background::start("nginx", command, &log)?;
        let up = || {
            let connect = || TcpStream::connect(("127.0.0.1", PORT)).map_err(Into::into);
            lab.proxy.enter(connect).is_ok()
        };
        process.wait_ready(READY, up).context("nginx")?;
        Ok(Self { _process: process })
    }
}

/// One process, so that ending it ends all; nothing outside of its directory.
fn text(directory: &Path, backends: usize) -> Result<String> {
    let mut servers = String::new();
    for n in 1..=backends {
        let address = backend_v4(u8::try_from(n)?);
        writeln!(servers, "server {address}:{BACKEND_PORT};")?;
    }
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temporary, "{kind}_temp_path {kind};")?;
    }
    Ok(format!(
        "daemon off; master_process off; pid {}/pid; error_log stderr;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
         access_log off;\n\
         {temporary}\
         upstream app {{ {servers} }}\n\
         server {{\n\
         listen {PORT}; listen [::]:{PORT};\n\
         location / {{\n\
         proxy_pass http://app;\n\
         proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection upgrade;\n\
         proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_read_timeout 1h;\n\
         }} }} }}\n",
        directory.display()
    ))
}
