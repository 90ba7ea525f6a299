//! POST /session[?seconds=20]: starts a round.
//!
//! 200 {"id", "seconds", "menu": [30 names of treats]} · 400 · 405 · 500
//!
//! Writes the first value of the round as game.h describes it. The end is GRACE_MS later than the
//! player's clock says: the last click has a way to go.

mod flat;

use flat::{Method, Request, Response};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const TREATS: [&str; 6] = ["fish", "shrimp", "milk", "cheese", "egg", "chicken"];
const MENU: usize = 30;
const SECONDS: u64 = 20;
const MOST_SECONDS: u64 = 60;
const GRACE_MS: u64 = 3000;

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn random_get(at: *mut u8, size: usize) -> i32;
}

/// `result<store, error>` and `result<_, error>`: failed @0, then the store or the error @4.
type StoreResult = [u32; 4];

#[link(wasm_import_module = "key-value")]
extern "C" {
    #[link_name = "open"]
    fn kv_open(name: *const u8, size: usize, result: *mut StoreResult);
    #[link_name = "set"]
    fn kv_set(store: u32, key: *const u8, key_size: usize, value: *const u8, size: usize, result: *mut StoreResult);
}

pub fn answer(request: &Request) -> Response {
    if request.method != Method::Post {
        let mut response = json(405, r#"{"error":"method not allowed"}"#.into());
        response.headers.push(("allow", "POST".into()));
        return response;
    }
    let seconds = match seconds(request.query) {
        Some(seconds) => seconds,
        None => return json(400, r#"{"error":"seconds: 1 to 60 expected"}"#.into()),
    };

    let mut random = [0; 16 + MENU];
    if unsafe { random_get(random.as_mut_ptr(), random.len()) } != 0 {
        return json(500, r#"{"error":"no random numbers"}"#.into());
    }
    let mut id = String::new();
    for byte in &random[..16] {
        let _ = write!(id, "{:02x}", byte);
    }
    let menu = menu(&random[16..]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);

    let mut value = format!("1 {} 0 0 0 0 ", now + seconds * 1000 + GRACE_MS);
    for &treat in &menu {
        value.push((b'0' + treat as u8) as char);
    }
    if !store(&format!("round:{}", id), &value) {
        return json(500, r#"{"error":"the store failed"}"#.into());
    }

    let names: Vec<&str> = menu.iter().map(|&treat| TREATS[treat]).collect();
    json(200, format!(r#"{{"id":"{}","seconds":{},"menu":["{}"]}}"#, id, seconds, names.join("\",\"")))
}

/// None when the field `seconds` is there, but not a number from 1 to 60, or there twice.
fn seconds(query: &str) -> Option<u64> {
    let mut values = query.split('&').filter_map(|field| field.strip_prefix("seconds="));
    let value = match values.next() {
        Some(value) => value,
        None => return Some(SECONDS),
    };
    if values.next().is_some() || value.len() > 2 || !value.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|seconds| (1..=MOST_SECONDS).contains(seconds))
}

/// One wish per random byte, none twice in a row. (256 is no multiple of 5: the first treats are
/// preferred by 2 %, which no player sees.)
fn menu(random: &[u8]) -> Vec<usize> {
    let mut last = TREATS.len() - 1;
    random
        .iter()
        .map(|&byte| {
            last = (last + 1 + byte as usize % (TREATS.len() - 1)) % TREATS.len();
            last
        })
        .collect()
}

fn store(key: &str, value: &str) -> bool {
    let mut result: StoreResult = [1; 4];
    unsafe {
        kv_open("default".as_ptr(), 7, &mut result);
        if result[0] as u8 != 0 {
            return false;
        }
        kv_set(result[1], key.as_ptr(), key.len(), value.as_ptr(), value.len(), &mut result);
    }
    result[0] as u8 == 0
}

fn json(status: u16, body: String) -> Response {
    let headers = vec![("content-type", "application/json".into()), ("cache-control", "no-store".into())];
    Response { status, headers, body: body.into_bytes() }
}
