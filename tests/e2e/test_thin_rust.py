"""The Rust thin client does an echo against our daemon; only with KATZENTWIST_RUST=1, since it is built first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.e2e.clientside import ClientSideCase

BUILD_SECONDS = 300
MANIFEST = """[package]
name = "echo"
version = "0.1.0"
edition = "2021"
[dependencies]
katzenpost_thin_client = "=0.0.25"
tokio = { version = "1", features = ["full"] }
[workspace]
"""
PROGRAM = """use katzenpost_thin_client::{Config, ThinClient};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).expect("thinclient.toml");
    let client = ThinClient::new(Config::new(&file)?).await?;
    // It returns before the daemon's first event has come.
    while client.pki_document().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (node, queue) = client.get_service("echo").await?.to_destination();
    let wait = std::time::Duration::from_secs(60);
    let reply = client.blocking_send_message(b"hello from rust", node, queue, wait).await?;
    println!("{} {}", client.sphinx_geometry().user_forward_payload_length, reply.len());
    println!("{}", String::from_utf8_lossy(&reply).trim_end_matches('\\0'));
    client.stop().await;
    Ok(())
}
"""


def build() -> Path:
    """The program; what was built once is used again."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise SkipTest("there is no cargo on the path")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "katzentwist-rust-echo"
    (folder / "src").mkdir(parents=True, exist_ok=True)
    for file, text in ((folder / "Cargo.toml", MANIFEST), (folder / "src" / "main.rs", PROGRAM)):
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    command = [cargo, "build", "--quiet"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SkipTest(f"the crate katzenpost_thin_client was not built within {BUILD_SECONDS} s") from None
    if "error[" in done.stderr:
        raise AssertionError(f"the echo program does not fit the crate:\n{done.stderr}")
    if done.returncode:
        raise SkipTest(f"the crate katzenpost_thin_client can not be fetched or built:\n{done.stderr[-2000:]}")
    return folder / "target" / "debug" / "echo"


class RustTests(ClientSideCase):
    """katzenpost_thin_client 0.0.25 from crates.io, unmodified."""

    if os.environ.get("KATZENTWIST_RUST") != "1":
        skip = "set KATZENTWIST_RUST=1 to build and run the Rust thin client"

    def test_echo(self) -> None:
        """Connect, document, service, echo."""
        program = build()
        with self.side.daemon() as daemon:
            done = subprocess.run([program, str(daemon.thin)], capture_output=True, text=True, timeout=90, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertEqual(done.stdout.splitlines()[-2:], ["2000 2574", "hello from rust"])
