use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_service;

#[http_service]
async fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    let text = format!("Hello from Rust! {} {}\n", request.method(), request.uri().path());
    Ok(Response::builder().status(200).header("content-type", "text/plain").body(text))
}
