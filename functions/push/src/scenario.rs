//! The 15 scenarios that send a message, as one table, and what a transition means by it.

use shared::message::{Channel, Role, Text};

use crate::status::Status::{self, *};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Its key.
    pub(crate) key: &'static str,
    /// Its Chinese name, which the operation column may hold and operators know from the log.
    pub(crate) label: &'static str,
    /// Other names that an operation column may hold.
    aliases: &'static [&'static str],
    from: &'static [Status],
    to: &'static [Status],
    /// Who is told.
    pub(crate) recipient: Addressee,
    /// In which words.
    pub(crate) text: Text,
    /// The message names the nurse.
    pub(crate) tells_of_nurse: bool,
    /// It may be reported anew while the status stays.
    restatable: bool,
    /// An operation that names another scenario means that this one did not happen, although no other scenario has
    /// this transition: somebody else than the nurse completed the service.
    only_its_operation: bool,
}

/// Who is told of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressee {
    /// The order's patient, by WeChat or the channel that the row chooses.
    Patient,
    /// The order's nurse, by the app.
    Nurse,
    /// The nurses who may accept the order, as none is assigned yet.
    AvailableNurses,
}

impl Addressee {
    /// The role.
    pub(crate) const fn role(self) -> Role {
        match self {
            Self::Patient => Role::Patient,
            Self::Nurse | Self::AvailableNurses => Role::Nurse,
        }
    }

    /// The channel, where the row chooses none.
    pub(crate) const fn channel(self) -> Channel {
        match self {
            Self::Patient => Channel::Wechat,
            Self::Nurse | Self::AvailableNurses => Channel::App,
        }
    }
}

impl Scenario {
    const fn new(
        key: &'static str,
        label: &'static str,
        from: &'static [Status],
        to: &'static [Status],
        recipient: Addressee,
        text: Text,
    ) -> Self {
        Self {
            key,
            label,
            aliases: &[],
            from,
            to,
            recipient,
            text,
            tells_of_nurse: false,
            restatable: false,
            only_its_operation: false,
        }
    }

    const fn also_called(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn telling_of_the_nurse(mut self) -> Self {
        self.tells_of_nurse = true;
        self
    }

    const fn restatable(mut self) -> Self {
        self.restatable = true;
        self
    }

    const fn only_by_its_operation(mut self) -> Self {
        self.only_its_operation = true;
        self
    }

    /// Whether this status can be what it leads to: not where it comes from, unless it may be reported anew.
    pub(crate) fn may_lead_to(&self, status: Status) -> bool {
        self.restatable || !self.from.contains(&status)
    }

    /// Whether an operation column's value names this scenario.
    pub(crate) fn is_called(&self, operation: &str) -> bool {
        self.key == operation || self.label == operation || self.aliases.contains(&operation)
    }
}

const fn text(title: &'static str, body: &'static str, short: &'static str, phrase: &'static str) -> Text {
    Text { title, body, short, phrase }
}

use Addressee::{AvailableNurses, Nurse, Patient};

/// From-states, recipients and bodies are the business's; to-states are our reading and can be configured.
pub(crate) static SCENARIOS: [Scenario; 15] = [
    Scenario::new(
        "payment_timed_out",
        "患者支付超时",
        &[PendingPayment, Paying],
        &[Cancelled],
        Patient,
        text("订单已取消", "您的订单由于长时间没支付，已被取消。", "订单长时间未支付，已被取消", "已取消"),
    ),
    Scenario::new(
        "payment_succeeded",
        "患者支付成功",
        &[Paying],
        &[AwaitingAcceptance],
        AvailableNurses,
        text("新的可接订单", "您有新的可接接单。", "您有新的可接接单。", "待接单"),
    ),
    Scenario::new(
        "unaccepted_for_2h",
        "订单2小时无人接单",
        &[PriorityAwaitingAcceptance, Dispatching],
        &[Refunding],
        Patient,
        text("订单无人接单", "您的订单超时无人接单，正在给您退款。", "订单超时无人接单，正在退款", "退款中"),
    ),
    Scenario::new(
        "refund_approved",
        "同意退款",
        &[RefundRequested, Disputed],
        &[Refunding],
        Patient,
        text("退款已同意", "您的退款已被同意，正在给您退款。", "退款已被同意，正在给您退款", "退款中"),
    ),
    Scenario::new(
        "nurse_cancelled",
        "护士取消订单",
        &[InService],
        &[Refunding],
        Patient,
        text(
            "护士已取消订单",
            "抱歉！为您服务的护士已取消订单，正在给您退款。",
            "抱歉！护士已取消订单，正在退款",
            "退款中",
        ),
    ),
    Scenario::new(
        "refund_requested",
        "患者申请退款",
        &[InService, ServiceCompleted],
        &[RefundRequested],
        Nurse,
        text("患者申请退款", "您的订单患者正申请退款。", "您的订单患者正申请退款。", "申请退款"),
    ),
    Scenario::new(
        "refund_withdrawn",
        "患者取消退款",
        &[RefundRequested, Disputed],
        &[InService, ServiceCompleted],
        Nurse,
        text("患者取消退款", "您的订单患者已取消退款", "您的订单患者已取消退款", "取消退款"),
    ),
    Scenario::new(
        "nurse_accepted",
        "护士接单",
        &[AwaitingAcceptance],
        &[AwaitingService],
        Patient,
        text("订单已接单", "您的订单已接单，点击查看订单详情。", "您的订单已接单", "已接单"),
    )
    .telling_of_the_nurse(),
    Scenario::new(
        "refund_rejected_by_nurse",
        "护士拒绝退款",
        &[RefundRequested],
        &[Disputed],
        Patient,
        text(
            "护士已拒绝退款",
            "您的退款申请护士已拒绝，等待客服人员处理，点击查看订单详情",
            "护士已拒绝退款，等待客服处理",
            "待处理",
        ),
    ),
    Scenario::new(
        "refund_request_timed_out",
        "退款申请超时",
        &[RefundRequested],
        &[Disputed],
        Patient,
        text(
            "退款申请超时",
            "您的退款申请由于长时间无人确认，需等待客服人员处理，点击查看订单详情。",
            "退款申请无人确认，等待客服处理",
            "待处理",
        ),
    ),
    Scenario::new(
        "refund_rejected_by_support",
        "运营拒绝退款",
        &[Disputed],
        &[InService, ServiceCompleted],
        Patient,
        text(
            "客服已拒绝退款",
            "您的退款申请客服人员已拒绝，点击查看订单详情。",
            "您的退款申请客服人员已拒绝",
            "已拒绝",
        ),
    ),
    Scenario::new(
        "nurse_disputed",
        "护士进入纠纷",
        &[InService],
        &[Disputed],
        Patient,
        text("订单进入纠纷", "为您服务的护士选择进入纠纷，点击查看订单详情。", "为您服务的护士选择进入纠纷", "纠纷中"),
    ),
    Scenario::new(
        "service_started",
        "服务开始",
        &[AwaitingService],
        &[InService],
        Patient,
        text(
            "服务已开始",
            "您的订单服务已开始，可以查看宣教内容，点击查看详情。",
            "服务已开始，可以查看宣教内容",
            "服务中",
        ),
    ),
    Scenario::new(
        "service_overdue",
        "服务超时/异常",
        &[InService, ServiceOverdue],
        &[ServiceOverdue, ServiceAbnormal],
        Nurse,
        text("服务已超时", "您的订单已超时，请尽快完成服务。", "您的订单已超时，请尽快完成服务。", "已超时"),
    )
    .also_called(&["服务超时", "服务异常"])
    .restatable(),
    Scenario::new(
        "service_completed",
        "服务完成（护士触发）",
        &[InService],
        &[ServiceCompleted],
        Patient,
        text("服务已完成", "护士已完成订单所有服务步骤，请及时做出评价。", "护士已完成服务，请及时评价", "服务完成"),
    )
    .also_called(&["服务完成"])
    .only_by_its_operation(),
];

/// The scenario with this key.
pub(crate) fn by_key(key: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.key == key)
}

/// Whether an operation column's value reports anew what the status says already.
pub(crate) fn restates(operation: &str) -> bool {
    SCENARIOS.iter().any(|scenario| scenario.restatable && scenario.is_called(operation))
}

/// What a transition means.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// This scenario.
    Send(&'static Scenario),
    /// Nothing that anybody is told.
    Ignored(String),
    /// Several scenarios, and no operation that decides.
    Ambiguous(String),
}

/// For each pair of states, the scenarios that have it as a transition: a bit each.
pub(crate) struct Transitions([[u16; Status::ALL.len()]; Status::ALL.len()]);

impl Transitions {
    /// The table's own, but for the to-states that `replaced` gives for a scenario's key.
    pub(crate) fn new(replaced: impl Fn(&str) -> Option<Vec<Status>>) -> Self {
        let mut cells = [[0u16; Status::ALL.len()]; Status::ALL.len()];
        for (bit, scenario) in SCENARIOS.iter().enumerate() {
            let to = replaced(scenario.key).unwrap_or_else(|| scenario.to.to_vec());
            for from in scenario.from {
                for to in &to {
                    if let Some(cell) = cells.get_mut(from.index()).and_then(|row| row.get_mut(to.index())) {
                        *cell |= 1 << bit;
                    }
                }
            }
        }
        Self(cells)
    }

    fn candidates(&self, from: Status, to: Status) -> impl Iterator<Item = &'static Scenario> + Clone {
        let bits = self.0.get(from.index()).and_then(|row| row.get(to.index())).copied().unwrap_or_default();
        SCENARIOS.iter().enumerate().filter(move |(bit, _)| bits & (1 << bit) != 0).map(|(_, scenario)| scenario)
    }

    /// What `from → to` means. `operation` is the scenario-naming column's value, already in the table's names;
    /// `restated` says that an update which left the status as it was reported an overdue service anew.
    pub(crate) fn meaning(&self, from: Status, to: Status, operation: Option<&str>, restated: bool) -> Meaning {
        if from == to && !(to == ServiceOverdue && restated) {
            return Meaning::Ignored("the status did not change".into());
        }
        let candidates = self.candidates(from, to);
        let mut named = candidates.clone().filter(|scenario| operation.is_some_and(|name| scenario.is_called(name)));
        if let (Some(scenario), None) = (named.next(), named.next()) {
            return Meaning::Send(scenario);
        }
        let mut all = candidates.clone();
        match (all.next(), all.next()) {
            (None, _) => Meaning::Ignored(format!("{} → {} sends nothing", from.label(), to.label())),
            (Some(only), None) if only.only_its_operation && operation.is_some() => {
                Meaning::Ignored(format!("the operation is not {}", only.label))
            }
            (Some(only), None) => Meaning::Send(only),
            _ => {
                let names: Vec<_> = candidates.map(|scenario| scenario.key).collect();
                Meaning::Ambiguous(format!(
                    "{} → {} may be {}; the operation does not say which",
                    from.label(),
                    to.label(),
                    names.join(" or ")
                ))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shared::{
        id::Id,
        message::{Accounts, Message, Notice, Recipient},
    };
    use std::collections::HashSet;

    fn default() -> Transitions {
        Transitions::new(|_| None)
    }

    fn meaning(from: Status, to: Status, operation: Option<&str>) -> Result<&'static str, &'static str> {
        match default().meaning(from, to, operation, false) {
            Meaning::Send(scenario) => Ok(scenario.key),
            Meaning::Ignored(_) => Err("ignored"),
            Meaning::Ambiguous(_) => Err("ambiguous"),
        }
    }

    /// The business's table, written a second time, so that a change of one word above is seen.
    #[expect(clippy::type_complexity, reason = "a row reads as the business wrote it")]
    const GIVEN: [(&str, &str, &[&str], &[&str], &str, &str); 15] = [
        (
            "payment_timed_out",
            "患者支付超时",
            &["待支付", "支付中"],
            &["已取消"],
            "patient",
            "您的订单由于长时间没支付，已被取消。",
        ),
        ("payment_succeeded", "患者支付成功", &["支付中"], &["待接单"], "nurse", "您有新的可接接单。"),
        (
            "unaccepted_for_2h",
            "订单2小时无人接单",
            &["高优先待接单", "派单"],
            &["退款中"],
            "patient",
            "您的订单超时无人接单，正在给您退款。",
        ),
        (
            "refund_approved",
            "同意退款",
            &["退款申请中", "服务纠纷"],
            &["退款中"],
            "patient",
            "您的退款已被同意，正在给您退款。",
        ),
        (
            "nurse_cancelled",
            "护士取消订单",
            &["服务中"],
            &["退款中"],
            "patient",
            "抱歉！为您服务的护士已取消订单，正在给您退款。",
        ),
        (
            "refund_requested",
            "患者申请退款",
            &["服务中", "服务完成"],
            &["退款申请中"],
            "nurse",
            "您的订单患者正申请退款。",
        ),
        (
            "refund_withdrawn",
            "患者取消退款",
            &["退款申请中", "服务纠纷"],
            &["服务中", "服务完成"],
            "nurse",
            "您的订单患者已取消退款",
        ),
        ("nurse_accepted", "护士接单", &["待接单"], &["待服务"], "patient", "您的订单已接单，点击查看订单详情。"),
        (
            "refund_rejected_by_nurse",
            "护士拒绝退款",
            &["退款申请中"],
            &["服务纠纷"],
            "patient",
            "您的退款申请护士已拒绝，等待客服人员处理，点击查看订单详情",
        ),
        (
            "refund_request_timed_out",
            "退款申请超时",
            &["退款申请中"],
            &["服务纠纷"],
            "patient",
            "您的退款申请由于长时间无人确认，需等待客服人员处理，点击查看订单详情。",
        ),
        (
            "refund_rejected_by_support",
            "运营拒绝退款",
            &["服务纠纷"],
            &["服务中", "服务完成"],
            "patient",
            "您的退款申请客服人员已拒绝，点击查看订单详情。",
        ),
        (
            "nurse_disputed",
            "护士进入纠纷",
            &["服务中"],
            &["服务纠纷"],
            "patient",
            "为您服务的护士选择进入纠纷，点击查看订单详情。",
        ),
        (
            "service_started",
            "服务开始",
            &["待服务"],
            &["服务中"],
            "patient",
            "您的订单服务已开始，可以查看宣教内容，点击查看详情。",
        ),
        (
            "service_overdue",
            "服务超时/异常",
            &["服务中", "服务超时"],
            &["服务超时", "服务异常"],
            "nurse",
            "您的订单已超时，请尽快完成服务。",
        ),
        (
            "service_completed",
            "服务完成（护士触发）",
            &["服务中"],
            &["服务完成"],
            "patient",
            "护士已完成订单所有服务步骤，请及时做出评价。",
        ),
    ];

    #[test]
    fn the_table_is_the_businesss_to_the_letter() {
        for (scenario, (key, label, from, to, role, body)) in SCENARIOS.iter().zip(GIVEN) {
            let labels = |statuses: &[Status]| statuses.iter().map(|status| status.label()).collect::<Vec<_>>();
            assert_eq!((scenario.key, scenario.label), (key, label));
            assert_eq!((labels(scenario.from), labels(scenario.to)), (from.to_vec(), to.to_vec()), "{key}");
            assert_eq!(scenario.recipient.role().as_str(), role, "{key}");
            assert_eq!(scenario.text.body, body, "{key}");
            let channel = if role == "patient" { Channel::Wechat } else { Channel::App };
            assert_eq!(scenario.recipient.channel(), channel, "{key}");
        }
    }

    #[test]
    fn each_transition_of_the_table_means_its_scenario_when_the_operation_says_so() {
        for scenario in &SCENARIOS {
            for &from in scenario.from {
                for &to in scenario.to.iter().filter(|&&to| to != from) {
                    for operation in [scenario.key, scenario.label] {
                        assert_eq!(meaning(from, to, Some(operation)), Ok(scenario.key), "{from:?} {to:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_shared_transitions_are_ambiguous_without_an_operation() {
        let mut ambiguous = HashSet::new();
        for &from in Status::ALL {
            for &to in Status::ALL {
                if meaning(from, to, None) == Err("ambiguous") {
                    ambiguous.insert((from.label(), to.label()));
                }
            }
        }
        let expected = [("退款申请中", "服务纠纷"), ("服务纠纷", "服务中"), ("服务纠纷", "服务完成")];
        assert_eq!(ambiguous, HashSet::from(expected));
        assert_eq!(meaning(RefundRequested, Disputed, Some("开始服务")), Err("ambiguous"));
        assert_eq!(meaning(Disputed, InService, Some("service_started")), Err("ambiguous"));
    }

    #[test]
    fn a_transition_that_no_scenario_has_is_ignored_whatever_the_operation() {
        assert_eq!(meaning(Refunding, Refunded, None), Err("ignored"));
        assert_eq!(meaning(Refunding, Refunded, Some("refund_approved")), Err("ignored"));
        assert_eq!(meaning(InService, InService, None), Err("ignored"));
    }

    #[test]
    fn a_service_completed_by_another_hand_is_ignored() {
        assert_eq!(meaning(InService, ServiceCompleted, None), Ok("service_completed"));
        assert_eq!(meaning(InService, ServiceCompleted, Some("服务完成")), Ok("service_completed"));
        assert_eq!(meaning(InService, ServiceCompleted, Some("system_completed")), Err("ignored"));
    }

    #[test]
    fn an_overdue_service_is_told_again_only_when_it_was_reported_anew() {
        let again = |restated| default().meaning(ServiceOverdue, ServiceOverdue, None, restated);
        assert!(matches!(again(true), Meaning::Send(scenario) if scenario.key == "service_overdue"));
        assert!(matches!(again(false), Meaning::Ignored(_)));
        assert_eq!(meaning(ServiceOverdue, ServiceAbnormal, None), Ok("service_overdue"));
        let anew = default().meaning(InService, InService, None, true);
        assert!(matches!(anew, Meaning::Ignored(_)), "{anew:?}");
    }

    #[test]
    fn replaced_to_states_replace() {
        let replaced = Transitions::new(|key| (key == "nurse_cancelled").then(|| vec![Cancelled]));
        assert!(matches!(replaced.meaning(InService, Refunding, None, false), Meaning::Ignored(_)));
        let meaning = replaced.meaning(InService, Cancelled, None, false);
        assert!(matches!(meaning, Meaning::Send(scenario) if scenario.key == "nurse_cancelled"));
    }

    /// 15 scenarios × 3 channels: nothing is over a limit, and nothing is cut.
    #[test]
    fn every_scenario_fits_every_channel() {
        let accounts = Accounts {
            wechat_template_id: "t".repeat(64),
            wechat_link: "https://m.example.org/{order_id}".into(),
            mini_program_template_id: "t".repeat(64),
            mini_program_page: "pages/order/detail?id={order_id}".into(),
            app_link: "clinic://orders/{order_id}".into(),
        };
        let chars = |value: &serde_json::Value| value["value"].as_str().unwrap().chars().count();
        let mut seen = 0;
        for scenario in &SCENARIOS {
            for channel in Channel::ALL {
                let notice = Notice {
                    event_id: Id::parse("e").unwrap(),
                    scenario: scenario.key,
                    label: scenario.label,
                    order_id: Id::parse(&"8".repeat(64)).unwrap(),
                    recipient: Recipient {
                        role: scenario.recipient.role(),
                        id: Id::parse(&"9".repeat(64)),
                        audience: None,
                        address: None,
                    },
                    channel,
                    text: scenario.text,
                    occurred_at_ms: 1_481_361_166_000,
                    nurse: None,
                };
                let message = serde_json::to_value(Message::new(notice, &accounts)).unwrap();
                assert_eq!(message["body"], scenario.text.body);
                let payload = &message["payload"];
                match channel {
                    Channel::App => {
                        assert!(serde_json::to_vec(payload).unwrap().len() <= 4000);
                        for alert in ["/notification/android/alert", "/notification/ios/alert/body"] {
                            assert_eq!(payload.pointer(alert).unwrap(), scenario.text.body);
                        }
                    }
                    Channel::Wechat | Channel::MiniProgram | Channel::Webhook => {
                        let data = &payload["data"];
                        let thing = data["thing1"]["value"].as_str().unwrap();
                        assert!(chars(&data["thing1"]) <= 20, "{} {thing}", scenario.key);
                        assert!([scenario.text.body, scenario.text.short].contains(&thing));
                        assert!(chars(&data["phrase2"]) <= 5, "{}", scenario.key);
                        let phrase = data["phrase2"]["value"].as_str().unwrap();
                        assert!(phrase.chars().all(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "{phrase}");
                        assert!(chars(&data["character_string3"]) <= 32);
                        assert!(data["time4"]["value"].as_str().unwrap().ends_with("日 17:12"));
                    }
                }
                seen += 1;
            }
        }
        assert_eq!(seen, 45);
    }
}
