//! Whether Redis tells of new entries of a stream, which is what rings for them: its own setting, and off unless
//! somebody has turned it on. A Redis that was there already is asked, and never changed.

use harness::redis::{KEYSPACE_EVENTS, keyspace_events};

/// What to tell a person if the stream does not ring, with the command that changes it.
pub(crate) async fn warning(url: &str, stream: &str) -> Option<String> {
    let set = match keyspace_events(url).await {
        Ok(set) => set,
        Err(error) => {
            return Some(format!(
                "it is unknown whether Redis rings for {stream} ({error:#}): its notify-keyspace-events needs \
                 {KEYSPACE_EVENTS}."
            ));
        }
    };
    let complete = completed(&set)?;
    Some(format!(
        "Redis does not ring for {stream} (its notify-keyspace-events is \"{set}\"), so that what is added waits for \
         POST /push/drain. To change that: redis-cli -u {url} config set notify-keyspace-events {complete}"
    ))
}

/// The events that are set, and beside them those that a doorbell needs; `None` if they are set already.
fn completed(set: &str) -> Option<String> {
    // `A` is all kinds of events, and so also those of streams (`t`).
    let is_set = |event| set.contains(event) || event == 't' && set.contains('A');
    let missing: String = KEYSPACE_EVENTS.chars().filter(|&event| !is_set(event)).collect();
    (!missing.is_empty()).then(|| format!("{set}{missing}"))
}

#[cfg(test)]
mod tests {
    use harness::Redis;

    use super::*;

    #[test]
    fn what_is_missing_is_added_to_what_others_have_set() {
        for rings in ["Kt", "tK", "AK", "AKE", "Kg$lshzxet"] {
            assert_eq!(completed(rings), None, "{rings}");
        }
        for (silent, complete) in [("", "Kt"), ("K", "Kt"), ("Ex", "ExKt"), ("AE", "AEK"), ("tE", "tEK"), ("Kx", "Kxt")]
        {
            assert_eq!(completed(silent).as_deref(), Some(complete));
        }
    }

    #[tokio::test]
    async fn the_command_it_tells_makes_redis_ring() {
        let redis = Redis::builder().setting("notify-keyspace-events", "Ex").start().await.unwrap();
        let warning = warning(&redis.url(), "orders:stream").await.unwrap();
        let (_, command) = warning.split_once("redis-cli ").unwrap();
        let ended = tokio::process::Command::new("redis-cli").args(command.split(' ')).output().await.unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(super::warning(&redis.url(), "orders:stream").await, None);
        // What others had set is set still.
        assert!(keyspace_events(&redis.url()).await.unwrap().contains('E'));
    }

    #[tokio::test]
    async fn a_redis_that_does_not_say_is_no_error() {
        let redis = Redis::builder().setting("rename-command", "CONFIG SECRET").start().await.unwrap();
        let warning = warning(&redis.url(), "orders:stream").await.unwrap();
        assert!(warning.contains("unknown") && warning.contains("Kt"), "{warning}");
    }
}
