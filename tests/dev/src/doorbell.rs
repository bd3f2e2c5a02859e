//! Whether Redis tells of new entries of streams, which is what rings for them: its own setting, and off unless
//! somebody has turned it on. A Redis that was there already is asked, and never changed.

use harness::redis::{KEYSPACE_EVENTS, keyspace_events};

/// What to tell a person if the streams do not ring, with the command that changes it; nothing if there are none.
pub(crate) async fn warning(url: &str, streams: &[String]) -> Option<String> {
    if streams.is_empty() {
        return None;
    }
    let streams = streams.join(", ");
    let set = match keyspace_events(url).await {
        Ok(set) => set,
        Err(error) => {
            return Some(format!(
                "it is unknown whether Redis rings for {streams} ({error:#}): its notify-keyspace-events needs \
                 {KEYSPACE_EVENTS}."
            ));
        }
    };
    let complete = completed(&set)?;
    Some(format!(
        "Redis does not ring for {streams} (its notify-keyspace-events is \"{set}\"), so that what is added waits for a \
         POST to /drain of its function. To change that: redis-cli -u {url} config set notify-keyspace-events {complete}"
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
        let streams = ["orders:stream".to_owned(), "pharmacy:stream".to_owned()];
        let warning = warning(&redis.url(), &streams).await.unwrap();
        assert!(streams.iter().all(|stream| warning.contains(stream)), "{warning}");
        let (_, command) = warning.split_once("redis-cli ").unwrap();
        let ended = tokio::process::Command::new("redis-cli").args(command.split(' ')).output().await.unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(super::warning(&redis.url(), &streams).await, None);
        // What others had set is set still.
        assert!(keyspace_events(&redis.url()).await.unwrap().contains('E'));
    }

    #[tokio::test]
    async fn a_redis_that_does_not_say_is_no_error() {
        let redis = Redis::builder().setting("rename-command", "CONFIG SECRET").start().await.unwrap();
        assert_eq!(warning(&redis.url(), &[]).await, None);
        let warning = warning(&redis.url(), &["orders:stream".to_owned()]).await.unwrap();
        assert!(warning.contains("unknown") && warning.contains("Kt"), "{warning}");
    }
}
