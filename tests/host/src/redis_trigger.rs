//! The Redis trigger: one subscriber for each server, which handles one message at a time, each by a fresh
//! instance of every component on the channel. Unlike Spin's it survives the loss of its server.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures::{StreamExt as _, future::join_all};
use redis::{Client, Msg, aio::PubSub};
use tokio::{sync::watch, time::sleep};

use crate::{app::Loaded, bindings::SubscriberPre, host::Host, logs::say, manifest::Manifest, variables::Variables};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// The channels of one server, and who hears them.
pub(crate) struct Subscription {
    client: Client,
    channels: BTreeMap<String, Vec<Subscriber>>,
}

#[derive(Clone)]
struct Subscriber {
    component: Arc<Loaded>,
    pre: SubscriberPre<Host>,
}

/// Makes a subscription for each address that the manifest's Redis triggers name. Faults go to `faults`.
pub(crate) fn subscriptions(
    manifest: &Manifest,
    variables: &Variables,
    loaded: &BTreeMap<String, Arc<Loaded>>,
    faults: &mut Vec<String>,
) -> Vec<Subscription> {
    let mut servers: HashMap<String, Subscription> = HashMap::new();
    for trigger in &manifest.trigger.redis {
        let id = &trigger.component;
        let default = &manifest.application.trigger.redis.address;
        let Some(address) = trigger.address.as_ref().or(default.as_ref()) else {
            continue;
        };
        let address = variables.expand(address);
        let channel = variables.expand(&trigger.channel);
        if channel.is_empty() {
            faults.push(format!("the Redis trigger of {id:?} has an empty channel"));
        }
        let client = match Client::open(address.as_str()) {
            Ok(client) => client,
            Err(error) => {
                // Without the address, which may hold a password.
                faults.push(format!("the Redis trigger of {id:?} has an invalid address: {error}"));
                continue;
            }
        };
        let Some(component) = loaded.get(id) else {
            continue;
        };
        match SubscriberPre::new(component.pre.clone()) {
            Ok(pre) => {
                let server =
                    servers.entry(address).or_insert_with(|| Subscription { client, channels: BTreeMap::new() });
                let component = component.clone();
                server.channels.entry(channel).or_default().push(Subscriber { component, pre });
            }
            Err(error) => faults
                .push(format!("component {id:?} has a Redis trigger, but does not handle Redis messages: {error:#}")),
        }
    }
    servers.into_values().collect()
}

impl Subscription {
    /// Handles messages until `stop` changes; the message in hand is finished.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let server = self.client.get_connection_info().addr().to_string();
        let mut was_lost = false;
        let mut retry = FIRST_RETRY;
        while !*stop.borrow() {
            let subscribed = tokio::select! {
                subscribed = self.subscribe() => subscribed,
                _ = stop.changed() => return,
            };
            match subscribed {
                Ok(connection) => {
                    if was_lost {
                        say(format!("Redis at {server} is back"));
                    }
                    retry = FIRST_RETRY;
                    self.announce(&server);
                    if self.listen(connection, &mut stop).await {
                        return;
                    }
                    say(format!("Redis at {server} went away; what is published until it is back is lost"));
                }
                Err(error) => say(format!("Redis at {server} cannot be reached: {error}; next try in {retry:?}")),
            }
            was_lost = true;
            tokio::select! {
                () = sleep(retry) => {}
                _ = stop.changed() => return,
            }
            retry = (retry * 2).min(SLOWEST_RETRY);
        }
    }

    async fn subscribe(&self) -> redis::RedisResult<PubSub> {
        let mut connection = self.client.get_async_pubsub().await?;
        for channel in self.channels.keys() {
            connection.subscribe(channel).await?;
        }
        Ok(connection)
    }

    fn announce(&self, server: &str) {
        let mut message = format!("Active Channels on {server}:\n");
        for (channel, subscribers) in &self.channels {
            let ids: Vec<_> = subscribers.iter().map(|s| s.component.component.id.as_str()).collect();
            message += &format!("\t{server}/{channel}: [{}]\n", ids.join(","));
        }
        crate::print(&message);
    }

    /// Handles messages until the connection is lost, or, which gives `true`, until it is time to stop.
    async fn listen(&self, connection: PubSub, stop: &mut watch::Receiver<bool>) -> bool {
        let mut messages = connection.into_on_message();
        loop {
            let message = tokio::select! {
                // First: what waits is not begun any more.
                biased;
                _ = stop.changed() => return true,
                message = messages.next() => message,
            };
            match message {
                Some(message) => self.handle(&message).await,
                None => return false,
            }
        }
    }

    async fn handle(&self, message: &Msg) {
        let subscribers = self.channels.get(message.get_channel_name());
        let handled = subscribers.into_iter().flatten().map(|subscriber| async {
            if let Err(error) = subscriber.call(message.get_payload_bytes().to_vec()).await {
                let id = &subscriber.component.component.id;
                let channel = message.get_channel_name();
                say(format!("Component {id:?} failed on a message of channel {channel:?}: {error:#}"));
            }
        });
        join_all(handled).await;
    }
}

impl Subscriber {
    async fn call(&self, payload: Vec<u8>) -> Result<()> {
        let mut store = self.component.store();
        let instance = self.pre.instantiate_async(&mut store).await?;
        let inbound = instance.spin_redis_inbound_redis();
        let answer =
            store.run_concurrent(async |accessor| inbound.call_handle_message(accessor, payload).await).await??;
        answer.map_err(|error| anyhow!("{error}")).context("the handler returned an error")
    }
}
