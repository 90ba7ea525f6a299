//! The HTTP side of the ABI of Spin's first releases: a core module that exports `handle-http-request`,
//! `canonical_abi_realloc` and `canonical_abi_free`; every list or text is (pointer, length), every
//! result is read at a pointer. Included by each guest with `mod flat;`; the guest has a function
//! `answer(&Request) -> Response`.

use std::alloc::{alloc, dealloc, realloc, Layout};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Other,
}

pub struct Request<'a> {
    pub method: Method,
    /// What follows the "?" of the URI.
    pub query: &'a str,
    headers: &'a [[&'a str; 2]],
}

impl<'a> Request<'a> {
    /// The last value of a header: what the host adds comes behind what a client sends.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().rev().find(|h| h[0].eq_ignore_ascii_case(name)).map(|h| h[1])
    }
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

extern "C" {
    /// Made by the linker. Called by hand because nothing else does: a module of this ABI has no entry.
    fn __wasm_call_ctors();
}

#[no_mangle]
unsafe extern "C" fn canonical_abi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return align as *mut u8;
    }
    let fresh = if old_size == 0 {
        alloc(Layout::from_size_align_unchecked(new_size, align))
    } else {
        realloc(old, Layout::from_size_align_unchecked(old_size, align), new_size)
    };
    if fresh.is_null() {
        std::process::abort();
    }
    fresh
}

#[no_mangle]
unsafe extern "C" fn canonical_abi_free(at: *mut u8, size: usize, align: usize) {
    if size > 0 {
        dealloc(at, Layout::from_size_align_unchecked(size, align));
    }
}

/// Gives bytes to the host, which frees them with `canonical_abi_free(at, size, 1)`.
fn give(bytes: Vec<u8>) -> [u32; 2] {
    let bytes = Box::leak(bytes.into_boxed_slice());
    [bytes.as_ptr() as u32, bytes.len() as u32]
}

/// record response { status: u16, headers: option<list<tuple<string, string>>>, body: option<list<u8>> }
static mut REPLY: [u32; 7] = [0; 7];

/// A list that the host placed with `canonical_abi_realloc`; the pointer of an empty one may be anything.
unsafe fn list<'a, T>(at: *const T, size: usize) -> &'a [T] {
    match size {
        0 => &[],
        _ => std::slice::from_raw_parts(at, size),
    }
}

// The host promises that every text is UTF-8.
#[export_name = "handle-http-request"]
unsafe extern "C" fn handle_http_request(
    method: u32,
    uri: *const u8,
    uri_size: usize,
    headers: *const [&str; 2],
    header_count: usize,
    _params: usize,
    _param_count: usize,
    _has_body: u32,
    _body: *const u8,
    _body_size: usize,
) -> *const u32 {
    __wasm_call_ctors();
    let uri = std::str::from_utf8_unchecked(list(uri, uri_size));
    let request = Request {
        method: match method {
            0 => Method::Get,
            1 => Method::Post,
            5 => Method::Head,
            _ => Method::Other,
        },
        query: uri.split_once('?').map_or("", |(_, query)| query),
        // (pointer, length) is also what a &str is made of on wasm32
        headers: list(headers, header_count),
    };
    let response = crate::answer(&request);

    let headers: Vec<[u32; 4]> = response
        .headers
        .into_iter()
        .map(|(name, value)| {
            let (name, value) = (give(name.as_bytes().to_vec()), give(value.into_bytes()));
            [name[0], name[1], value[0], value[1]]
        })
        .collect();
    let headers = Box::leak(headers.into_boxed_slice());
    let body = give(response.body);
    REPLY = [response.status as u32, 1, headers.as_ptr() as u32, headers.len() as u32, 1, body[0], body[1]];
    &REPLY as *const u32
}
