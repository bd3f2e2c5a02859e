//! The second part of `dev demo`: a small campaign, from its cards to its audit.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};

/// Asia/Shanghai.
const OFFSET: (i8, i8, i8) = (8, 0, 0);

/// How the running application is called.
pub(crate) struct Campaign {
    pub(crate) client: Client,
    /// `http://127.0.0.1:3000`.
    pub(crate) origin: String,
    pub(crate) api_token: String,
    pub(crate) admin_token: String,
}

impl Campaign {
    /// Plays the campaign `id`, which no earlier run has used.
    pub(crate) async fn play(&self, id: &str) -> Result<()> {
        let now = OffsetDateTime::now_utc().to_offset(UtcOffset::from_hms(OFFSET.0, OFFSET.1, OFFSET.2)?);
        // Everything happens in a week that has ended.
        let day = now - Duration::days(10);
        let monday = day.date() - Duration::days(day.weekday().number_days_from_monday().into());
        let at = |ago: i64| (now - Duration::days(ago)).format(&Rfc3339);
        let base = format!("/rewards/activities/{id}");

        println!("\nThe campaign {id}: a card of 20 yuan and 20 points for each friend who opens an account,");
        println!("and five cards for every 1,000 points of a week.");
        let activity = json!({
            "id": id, "name": "秋季推荐", "starts_at": at(30)?, "ends_at": at(-30)?,
            "invite": {"card_fen": 2000, "points": 20},
            "settlement": {"points": 1000, "cards": 5, "card_fen": 2000},
            "period": {"weekday_start": "monday"},
        });
        self.admin("/rewards/activities", &activity).await?;

        let cards: String = (0..8).map(|number| format!("{id}-{number},secret-{number},2000\n")).collect();
        let import = self.request(Method::POST, &format!("{base}/cards"), &self.admin_token);
        let imported = answer(import.header("content-type", "text/csv").body(cards)).await?;
        println!("\n  8 cards are imported\n    {imported}");
        self.service(&format!("{base}/participants"), &json!({"user_id": "u1"})).await?;
        for friend in ["f1", "f2"] {
            let invitation = json!({"inviter": "u1", "invitee": friend, "invited_at": at(11)?});
            self.service(&format!("{base}/invitations"), &invitation).await?;
            let opened = json!({"event_id": format!("open-{friend}"), "invitee": friend,
                "opened_at": day.format(&Rfc3339)?, "new_customer": true});
            let granted = self.service(&format!("{base}/registrations"), &opened).await?;
            println!("\n  u1 invites {friend}, who opens an account\n    {granted}");
        }
        let learned = json!({"event_id": "learned-1", "user_id": "u1", "kind": "learning", "points": 960,
            "at": day.format(&Rfc3339)?});
        self.service(&format!("{base}/points"), &learned).await?;
        let ranking = answer(self.request(Method::GET, &format!("{base}/ranking"), &self.api_token)).await?;
        println!("\n  u1 learns, for 960 points: the ranking\n    {}", ranking["items"]);
        let settled = self.service(&format!("{base}/settlements"), &json!({"period": monday.to_string()})).await?;
        println!("\n  the week from {monday} on is settled\n    {settled}");

        let claims = format!("/rewards/claims?activity_id={id}&user_id=u1&state=issued");
        let claims = answer(self.request(Method::GET, &claims, &self.api_token)).await?;
        let claim = claims["items"][0]["id"].as_str().context("u1 has no card")?;
        let card = self.service(&format!("/rewards/claims/{claim}/activate"), &json!({"user_id": "u1"})).await?;
        println!("\n  u1 activates a card, and sees its secret\n    {card}");

        let audit = self.request(Method::GET, &format!("{base}/audit"), &self.api_token).send().await?;
        let audit = audit.error_for_status()?.text().await?;
        println!("\n  the audit\n    {}", audit.trim_end().replace('\n', "\n    "));
        ensure!(audit.contains("\"clean\":true"), "the audit is not clean");
        Ok(())
    }

    fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.origin)).bearer_auth(token)
    }

    async fn service(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.request(Method::POST, path, &self.api_token).json(body)).await
    }

    async fn admin(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.request(Method::POST, path, &self.admin_token).json(body)).await
    }
}

async fn answer(request: RequestBuilder) -> Result<Value> {
    let answer = request.send().await?;
    let (status, url) = (answer.status(), answer.url().clone());
    let text = answer.text().await?;
    ensure!(status.is_success(), "{url} answered {status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{url} answered no JSON: {text}"))
}
