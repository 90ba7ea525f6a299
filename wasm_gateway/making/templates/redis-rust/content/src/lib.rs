use spin_sdk::redis_subscriber;

#[redis_subscriber]
async fn on_message(message: Vec<u8>) -> anyhow::Result<()> {
    println!("{}", String::from_utf8_lossy(&message));
    Ok(())
}
