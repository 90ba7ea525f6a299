//! Serves the files that the manifest mounts at /, below the route's `...`.
//!
//! GET and HEAD; `folder/` is its index.html, `folder` a redirect to `folder/`. Every file has an ETag
//! made from its content and is revalidated with If-None-Match.
//!
//! A name is never looked up unless each of its segments is a plain one: no empty segment, nothing that
//! begins with a dot, no slash, backslash, colon or control that was hidden behind a percent escape.

mod flat;

use flat::{Method, Request, Response};
use std::fs::{metadata, read};

const TYPES: [(&str, &str); 16] = [
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff2", "font/woff2"),
];

/// The pages bring everything with them and nothing runs that is written in the page itself.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

pub fn answer(request: &Request) -> Response {
    if request.method != Method::Get && request.method != Method::Head {
        let mut response = plain(405, "Method Not Allowed");
        response.headers.push(("allow", "GET, HEAD".into()));
        return response;
    }
    let mut response = serve(request);
    if request.method == Method::Head {
        response.headers.push(("content-length", response.body.len().to_string()));
        response.body.clear();
    }
    response
}

fn serve(request: &Request) -> Response {
    let path = request.header("spin-path-info").unwrap_or("");
    let name = match file_name(path) {
        Some(name) => name,
        None => return plain(404, "Not Found"),
    };
    if !path.ends_with('/') && metadata(&name).map_or(false, |m| m.is_dir()) {
        let route = request.header("spin-component-route").unwrap_or("");
        let mut response = plain(308, "Permanent Redirect");
        // `path` has no empty segment, so this cannot begin with the "//" of another host
        response.headers.push(("location", format!("{}{}/", route.trim_end_matches('/'), path)));
        return response;
    }
    let body = match read(&name) {
        Ok(body) => body,
        Err(_) => return plain(404, "Not Found"),
    };

    let tag = format!("\"{:016x}-{:x}\"", fingerprint(&body), body.len());
    let fresh = request.header("if-none-match").map_or(false, |tags| matches(tags, &tag));
    let mut headers = vec![("etag", tag), ("cache-control", "no-cache".into())];
    if fresh {
        return Response { status: 304, headers, body: Vec::new() };
    }
    let media_type = media_type(&name);
    if media_type.starts_with("text/html") {
        headers.push(("content-security-policy", POLICY.into()));
    }
    headers.push(("content-type", media_type.into()));
    headers.push(("x-content-type-options", "nosniff".into()));
    Response { status: 200, headers, body }
}

/// The decoded path below the mount, index.html added; None for a path that names no file of ours.
fn file_name(path: &str) -> Option<String> {
    let mut name = String::new();
    let (folder, segments) = match path.strip_suffix('/') {
        Some(rest) => (true, rest),
        None => (false, path),
    };
    if !segments.is_empty() {
        for segment in segments.strip_prefix('/')?.split('/') {
            let segment = decode(segment)?;
            let plain = |c: char| c != '/' && c != '\\' && c != ':' && !c.is_control();
            if segment.is_empty() || segment.starts_with('.') || !segment.chars().all(plain) {
                return None;
            }
            name.push('/');
            name.push_str(&segment);
        }
    }
    if folder {
        name.push_str("/index.html");
    } else if name.is_empty() {
        name.push('/');
    }
    Some(name)
}

/// Percent escapes resolved; None when one is broken or the result is not UTF-8.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (digit(bytes.next()?)? << 4) | digit(bytes.next()?)?,
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    TYPES.iter().find(|(known, _)| *known == extension).map_or("application/octet-stream", |(_, media_type)| media_type)
}

/// FNV-1a, 64 bits: tells versions of a file apart, no more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf29ce484222325, |hash, &byte| (hash ^ byte as u64).wrapping_mul(0x100000001b3))
}

/// If-None-Match: "*" or a list of tags, compared weakly. Our tags hold no comma.
fn matches(tags: &str, tag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|other| other.trim().trim_start_matches("W/") == tag)
}

fn plain(status: u16, text: &str) -> Response {
    let headers = vec![("content-type", "text/plain; charset=utf-8".into()), ("x-content-type-options", "nosniff".into())];
    Response { status, headers, body: format!("{}\n", text).into_bytes() }
}
