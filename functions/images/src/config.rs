//! What the operator set for `images`, read once per instance, and the rules and reports as they stand, read again
//! when they have changed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use shared::{
    auth::Tokens,
    clock,
    config::{Lazy, misconfigured, variable},
    db::{self, Db},
    gateway::Gateways,
    http::is_origin,
    outbox,
    problem::{Fault, Kind, Problem},
};

use crate::{
    FUNCTION,
    finder::Finder,
    rewrite::{Counts, Rewriter, finder},
    rules::{Caller, Rules},
    scan,
    sign::Keys,
    store::{self, Hosts, MadeBy, Mark, News, RuleSet},
    unlawful::{Anew, Bloom, Image, Lack, Unlawful},
};

/// So old may be what an instance knows of rules and reports.
const KNOWN_FOR: Duration = Duration::from_millis(500);
/// What somebody has marked to be made anew, and has not, is made anew by others after this time.
const MENDED_AFTER_MS: i64 = 10_000;
/// Reports that are read one by one, before they are gathered.
const GATHERED_AFTER: i64 = 256;
/// Reports whose keys are made anew at once.
const REKEYED: i64 = 1_000;
/// How often to try to gather while others do.
const TRIES: usize = 8;

static KEYS: Lazy<Keys> = Lazy::new();
static TOKENS: Lazy<Tokens> = Lazy::new();
static GATEWAYS: Lazy<Gateways> = Lazy::new();
static ORIGINS: Lazy<Vec<String>> = Lazy::new();
static DB: Lazy<Db> = Lazy::new();
static STANDING: Mutex<Option<Standing>> = Mutex::new(None);

/// How many origins the manifest has a variable for.
const ORIGINS_MAX: usize = 4;

/// The database, with this function's tables and the outbox's.
///
/// # Errors
/// 503 while it is busy; the next call tries again.
pub(crate) async fn db() -> Result<&'static Db, Problem> {
    let owners = [("outbox", outbox::MIGRATIONS), (FUNCTION, store::MIGRATIONS)];
    Ok(DB.get_or_try_init(db::spin::open(&owners)).await?)
}

/// The tokens that HTTP accepts. The Redis component is not given them.
///
/// # Errors
/// 503 if the manifest does not give the variables.
pub(crate) async fn tokens() -> Result<&'static Tokens, Problem> {
    TOKENS.get_or_try_init(Tokens::load()).await
}

/// The signers' keys.
///
/// # Errors
/// 503 if they cannot be read.
pub(crate) async fn keys() -> Result<&'static Keys, Problem> {
    KEYS.get_or_try_init(async { Keys::parse(&variable("images_sign_keys").await?).map_err(misconfigured) }).await
}

/// Where messages go.
///
/// # Errors
/// 503 with every fault of its variables.
pub(crate) async fn gateways() -> Result<&'static Gateways, Problem> {
    GATEWAYS.get_or_try_init(async { Gateways::load_for_people().await?.map_err(misconfigured) }).await
}

/// What an origin is asked for by: its host, and its port if it has one.
pub(crate) fn origin_name(origin: &str) -> Option<&str> {
    origin.split("://").nth(1)
}

/// The origins that may be fetched from, such as `https://legacy.example.org`.
///
/// # Errors
/// 503 with every one that is no origin.
pub(crate) async fn origins() -> Result<&'static Vec<String>, Problem> {
    ORIGINS
        .get_or_try_init(async {
            let (mut origins, mut faults) = (Vec::new(), Vec::new());
            for number in 1..=ORIGINS_MAX {
                let name = format!("images_origin_{number}");
                let value = variable(&name).await?.trim().to_ascii_lowercase();
                let origin = value.strip_suffix('/').unwrap_or(&value);
                let is_there = origins.iter().any(|other: &String| origin_name(other) == origin_name(origin));
                if is_origin(origin) && is_there {
                    let detail = "must have another host or port than the others: by these it is asked for";
                    faults.push(Fault::at(format!("/variables/{name}"), detail));
                } else if is_origin(origin) {
                    origins.push(origin.to_owned());
                } else if !origin.is_empty() {
                    faults.push(Fault::at(format!("/variables/{name}"), "must be an origin, https://host[:port]"));
                }
            }
            if faults.is_empty() { Ok(origins) } else { Err(misconfigured(faults)) }
        })
        .await
}

/// Rules and reports as they stand.
#[derive(Clone)]
pub(crate) struct Standing {
    pub(crate) rules: Arc<Rules>,
    pub(crate) unlawful: Arc<Unlawful>,
    pub(crate) finder: Arc<Option<Finder>>,
    mark: Mark,
    /// When this was known to be so.
    at_ms: i64,
}

impl Standing {
    /// A rewriter of one body.
    pub(crate) fn rewriter(self, caller: &Caller) -> Rewriter {
        Rewriter::new(self.rules, self.unlawful, self.finder, caller, clock::now_ms() / 1000)
    }

    /// A whole text, rewritten.
    ///
    /// # Errors
    /// Those of the database, where the text needs more of the reports than this instance has read.
    pub(crate) async fn rewritten(&self, caller: &Caller, text: Bytes) -> Result<(Bytes, Counts), Problem> {
        loop {
            match self.clone().rewriter(caller).whole(text.clone()) {
                Ok(rewritten) => return Ok(rewritten),
                Err(lack) => self.clone().learn(lack).await?,
            }
        }
    }

    /// Reads what a body needs of the reports, for all bodies. What has changed since is known the sooner.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn learn(self, lack: Lack) -> Result<(), Problem> {
        let db = db().await?;
        let unlawful = &self.unlawful;
        let generation = self.mark.generation;
        match lack {
            Lack::Hosts => match store::host_filter(db, generation).await? {
                Some(filter) => unlawful.learn_hosts(filter),
                None => unlawful.learn_hosts(Bloom::of_hosts(&store::hosts(db).await?)),
            },
            Lack::Filter => match store::path_filter(db, generation).await? {
                Some(filter) => unlawful.learn_filter(filter),
                None => unlawful.learn_keys(store::gathered_keys(db).await?.into()),
            },
            Lack::Keys => unlawful.learn_keys(store::gathered_keys(db).await?.into()),
        }
        Ok(())
    }
}

fn known() -> Option<Standing> {
    STANDING.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Rules and reports as they stood at most half a second ago.
///
/// # Errors
/// Those of the database, and 503 if the kept set names a key that is gone.
pub(crate) async fn standing() -> Result<Standing, Problem> {
    standing_with(false).await
}

/// The same for a text that is likely to be the only one of its instance: what its URLs may need of the reports is read
/// at once, as a query costs more than what it brings.
///
/// # Errors
/// As [`standing`].
pub(crate) async fn standing_for(text: &[u8]) -> Result<Standing, Problem> {
    standing_with(scan::next(text, 0).is_some()).await
}

async fn standing_with(wants_filters: bool) -> Result<Standing, Problem> {
    let known_for_ms = i64::try_from(KNOWN_FOR.as_millis()).unwrap_or_default();
    match known() {
        Some(standing) if (0..known_for_ms).contains(&(clock::now_ms() - standing.at_ms)) => Ok(standing),
        _ => look(wants_filters).await,
    }
}

/// Rules and reports as they stand now.
///
/// # Errors
/// As [`standing`].
pub(crate) async fn look_again() -> Result<Standing, Problem> {
    look(false).await
}

async fn look(wants_filters: bool) -> Result<Standing, Problem> {
    let db = db().await?;
    let at_ms = clock::now_ms();
    let before = known();
    let since = before.as_ref().map(|standing| &standing.mark);
    let mut news = store::news(db, since, wants_filters).await?;
    if news.mark.dirty_at_ms > 0 && at_ms - news.mark.dirty_at_ms > MENDED_AFTER_MS {
        gather(db).await?;
        news = store::news(db, since, wants_filters).await?;
    }
    let set = news.rules.as_ref();
    let (rules, is_abandoned) = match &before {
        Some(standing) if standing.mark.rules_version == news.mark.rules_version => (standing.rules.clone(), false),
        _ => (Arc::new(parsed(set).await?), is_abandoned(set, &news.mark, at_ms)),
    };
    if is_abandoned || news.mark.has_other_keys() {
        rekey(db, &rules).await?;
        let after = store::news(db, since, wants_filters).await?;
        // The set is the one that was read, whatever has come meanwhile.
        news = News { mark: Mark { rules_version: news.mark.rules_version, ..after.mark }, ..after };
    }
    let News { mark, hosts, host_filter, path_filter, .. } = news;
    let unlawful = match &before {
        Some(standing) if (standing.mark.generation, standing.mark.seq) == (mark.generation, mark.seq) => {
            standing.unlawful.clone()
        }
        Some(standing) if standing.mark.generation == mark.generation => {
            let mut unlawful = (*standing.unlawful).clone();
            store::reported_since(db, standing.mark.seq).await?.iter().for_each(|keys| unlawful.add(keys));
            Arc::new(unlawful)
        }
        _ => {
            let mut unlawful = match hosts {
                Some(Hosts::Many) => Unlawful::on_many(),
                Some(Hosts::Listed(hosts)) => Unlawful::on(hosts.iter().map(String::as_str)),
                None => Unlawful::on(store::hosts(db).await?.iter().map(String::as_str)),
            };
            // Nothing has been reported since, most of the time.
            if mark.seq > mark.through_seq {
                store::reported_since(db, mark.through_seq).await?.iter().for_each(|keys| unlawful.add(keys));
            }
            host_filter.into_iter().for_each(|filter| unlawful.learn_hosts(filter));
            path_filter.into_iter().for_each(|filter| unlawful.learn_filter(filter));
            Arc::new(unlawful)
        }
    };
    let finder = match before {
        Some(standing) if Arc::ptr_eq(&standing.rules, &rules) && Arc::ptr_eq(&standing.unlawful, &unlawful) => {
            standing.finder
        }
        _ => Arc::new(finder(&rules, &unlawful)),
    };
    let standing = Standing { rules, unlawful, finder, mark, at_ms };
    *STANDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing.clone());
    Ok(standing)
}

/// The set that is kept, or the one that is compiled in.
async fn parsed(stored: Option<&RuleSet>) -> Result<Rules, Problem> {
    let text = stored.map_or(Rules::DEFAULT, |set| &set.text);
    Rules::parse(text.as_bytes(), keys().await?).map_err(|faults| {
        let faults = faults.into_iter().map(|fault| Fault::at(format!("/stored{}", fault.pointer), fault.detail));
        misconfigured(faults.collect())
    })
}

/// Whether the reports' keys are still to be made anew by a set. Whoever kept the set does; if they could not, we do.
fn is_abandoned(stored: Option<&RuleSet>, mark: &Mark, now_ms: i64) -> bool {
    let is_old = stored.is_none_or(|set| now_ms - set.stored_at_ms > MENDED_AFTER_MS);
    is_old && mark.keys_version < mark.rules_version
}

/// Makes the keys of all reports anew by these rules, as a new rule gives an image another address.
///
/// # Errors
/// Those of the database.
pub(crate) async fn rekey(db: &Db, rules: &Rules) -> Result<(), Problem> {
    let mark = store::mark(db).await?;
    let before = rules_before(db, &mark).await?;
    let mut anew = Anew::new(before.as_ref(), rules);
    let mut seq = 0;
    loop {
        let addresses = store::addresses(db, seq, REKEYED).await?;
        let Some(last) = addresses.last() else { break };
        seq = last.seq;
        let keys = |of: store::Address| Some((of.seq, anew.keys(&Image::parse(&of.url)?, of.hosts)));
        let keys: Vec<_> = addresses.into_iter().filter_map(keys).collect();
        store::rekey(db, &keys).await?;
    }
    gather_by(db, Some(MadeBy { rules_version: rules.version, others: mark.others })).await
}

/// The rules by which the reports' keys were made; `None` where they cannot be read any more.
async fn rules_before(db: &Db, mark: &Mark) -> Result<Option<Rules>, Problem> {
    let version = mark.keys_made_by();
    let stored = store::rules(db, version).await?;
    let text = stored.as_ref().map_or(Rules::DEFAULT, |set| &set.text);
    Ok(Rules::parse(text.as_bytes(), keys().await?).ok())
}

/// Gathers the keys of all reports in one piece.
///
/// # Errors
/// Those of the database.
pub(crate) async fn gather(db: &Db) -> Result<(), Problem> {
    gather_by(db, None).await
}

async fn gather_by(db: &Db, made_by: Option<MadeBy>) -> Result<(), Problem> {
    for tried in 0..TRIES {
        let mark = store::mark(db).await?;
        // By others, meanwhile.
        let is_of = |made_by: MadeBy| made_by.rules_version == mark.keys_version && !mark.has_other_keys();
        if tried > 0 && made_by.is_some_and(is_of) {
            return Ok(());
        }
        if store::gather(db, mark.generation, made_by.unwrap_or_else(|| (&mark).into())).await? {
            return Ok(());
        }
    }
    Err(Problem::new(Kind::Unavailable, "the reports change too fast; the same call may succeed later"))
}

/// Gathers the keys if many reports have come since.
///
/// # Errors
/// Those of the database.
pub(crate) async fn gather_if_many(db: &Db) -> Result<(), Problem> {
    let mark = store::mark(db).await?;
    if mark.seq - mark.through_seq > GATHERED_AFTER { gather(db).await } else { Ok(()) }
}
