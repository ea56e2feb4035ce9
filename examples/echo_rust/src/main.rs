//! An echo service in Rust, in both protocols of docs/plugins.md: `echo-service [-protocol old]`.

use std::error::Error;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};

use serde::{de::DeserializeOwned, Deserialize, Serialize};
use serde_bytes::ByteBuf;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    request_at: Option<i64>,
    delay: i64,
    #[serde(rename = "ID")]
    id: u64,
    payload: Option<ByteBuf>,
    #[serde(rename = "SURB")]
    surb: Option<ByteBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OldRequest {
    payload: ByteBuf,
    #[serde(rename = "HasSURB")]
    has_surb: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OldResponse {
    payload: ByteBuf,
}

/// The answer to each request, if there is one, until the node hangs up.
fn serve<Q: DeserializeOwned, R: Serialize>(
    stream: UnixStream,
    answer: impl Fn(Q) -> Option<R>,
) -> Result<(), Box<dyn Error>> {
    let mut output = stream.try_clone()?;
    loop {
        // Takes one item after another from the stream, and no byte more.
        let request: Q = ciborium::from_reader(&stream)?;
        if let Some(response) = answer(request) {
            let mut bytes = Vec::new();
            ciborium::into_writer(&response, &mut bytes)?;
            output.write_all(&bytes)?;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let old = arguments == ["-protocol", "old"];
    let path = std::env::temp_dir().join(format!("echo-rust-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path)?;
    println!("{}", path.display()); // the one line that the node reads, once the socket is there
    let (stream, _) = listener.accept()?;
    std::fs::remove_file(&path)?;
    if old {
        // Every request is answered, in order; without SURB with nothing.
        serve(stream, |request: OldRequest| {
            let payload = if request.has_surb { request.payload } else { ByteBuf::new() };
            Some(OldResponse { payload })
        })
    } else {
        // The response is the request: all of its fields are to be echoed.
        serve(stream, |request: Message| request.surb.is_some().then_some(request))
    }
}
