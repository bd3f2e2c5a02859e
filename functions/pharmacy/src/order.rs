//! A prescription order as a doctor places it, checked where it comes in.

use serde::{Deserialize, Serialize};
use shared::{fields::Fields, id::Id, json::Value, message::Channel, problem::Fault};

/// The most lines of a prescription, which bounds what rules cost.
pub(crate) const LINES_MAX: usize = 100;
/// The most diagnoses.
const DIAGNOSES_MAX: usize = 20;
/// The most units, or grams, of a line.
const QUANTITY_MAX: i64 = 1_000_000;
/// The most days that a line may last: ten years.
const DAYS_MAX: i64 = 3_650;
/// The most that an order may cost, in fen: ten million yuan.
const AMOUNT_MAX_FEN: i64 = 1_000_000_000;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order_no: Id,
    pub(crate) doctor_id: Id,
    pub(crate) patient: Patient,
    /// Where the patient ordered, and is told.
    pub(crate) channel: PatientChannel,
    pub(crate) prescription: Prescription,
    pub(crate) address: String,
    pub(crate) amount_fen: i64,
}

/// Who gets the medicine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patient {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) phone: String,
}

/// How a patient is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PatientChannel {
    /// 公众号.
    Wechat,
    /// 小程序.
    MiniProgram,
}

impl PatientChannel {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "wechat" => Some(Self::Wechat),
            "mini_program" => Some(Self::MiniProgram),
            _ => None,
        }
    }

    /// As messages know it.
    pub(crate) const fn of_messages(self) -> Channel {
        match self {
            Self::Wechat => Channel::Wechat,
            Self::MiniProgram => Channel::MiniProgram,
        }
    }
}

/// What the doctor prescribed, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prescription {
    pub(crate) id: Id,
    pub(crate) diagnosis: Vec<String>,
    pub(crate) lines: Vec<Line>,
}

/// One drug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) sku: Id,
    pub(crate) name: String,
    pub(crate) category: Category,
    /// In units; of `tcm` in grams.
    pub(crate) quantity: i64,
    /// For how long it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) days: Option<i64>,
    /// How it is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dose: Option<String>,
}

/// What kind of drug it is in law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Category {
    /// 处方药: on prescription.
    Rx,
    /// 非处方药: over the counter.
    Otc,
    /// 中药饮片: traditional Chinese medicine, by weight.
    Tcm,
}

impl Category {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Rx, Self::Otc, Self::Tcm];

    /// Its name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Otc => "otc",
            Self::Tcm => "tcm",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.as_str() == name)
    }
}

impl Order {
    /// Reads an order that stands at the pointer `base`.
    ///
    /// # Errors
    /// Every fault of it.
    pub(crate) fn read(value: &Value<'_>, base: &str) -> Result<Self, Vec<Fault>> {
        let mut inner = Vec::new();
        let mut fields = Fields::of(value, base);
        let order_no = fields.id("order_no");
        let doctor_id = fields.id("doctor_id");
        let patient = fields.object("patient", patient).flatten();
        let channel = fields
            .required("channel", "must be wechat or mini_program", |value| PatientChannel::parse(value.as_str()?));
        let prescription = fields.object("prescription", |fields| {
            let id = fields.id("id");
            let diagnosis = fields.optional("diagnosis", "must be a list", Value::as_array);
            let diagnosis = diagnoses(diagnosis.unwrap_or_default(), base, &mut inner);
            let lines = fields.required("lines", "must be a list", Value::as_array);
            let lines = lines.and_then(|items| lines_of(items, base, &mut inner));
            Some(Prescription { id: id?, diagnosis: diagnosis?, lines: lines? })
        });
        let address = fields.text("address", 500);
        let amount_fen = fields.integer("amount_fen", 1..=AMOUNT_MAX_FEN);
        let order = (|| {
            Some(Self {
                order_no: order_no?,
                doctor_id: doctor_id?,
                patient: patient?,
                channel: channel?,
                prescription: prescription.flatten()?,
                address: address?,
                amount_fen: amount_fen?,
            })
        })();
        match fields.finish(order) {
            Ok(order) if inner.is_empty() => Ok(order),
            Ok(_) => Err(inner),
            // What `finish` says where only the lists have faults.
            Err(faults) if !inner.is_empty() && faults.iter().all(|fault| fault.pointer == base) => Err(inner),
            Err(mut faults) => {
                faults.append(&mut inner);
                Err(faults)
            }
        }
    }
}

fn patient(fields: &mut Fields<'_>) -> Option<Patient> {
    let id = fields.id("id");
    let name = fields.text("name", 64);
    let phone = fields.required("phone", "must be a telephone number", |value| telephone(value.as_str()?));
    Some(Patient { id: id?, name: name?, phone: phone? })
}

/// As people write one, also with its middle hidden.
fn telephone(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (3..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b' ' | b'*' | b'(' | b')'));
    fits.then(|| text.to_owned())
}

fn diagnoses(items: &[Value<'_>], base: &str, faults: &mut Vec<Fault>) -> Option<Vec<String>> {
    let at = format!("{base}/prescription/diagnosis");
    if items.len() > DIAGNOSES_MAX {
        faults.push(Fault::at(at, format!("may have {DIAGNOSES_MAX} entries")));
        return None;
    }
    let text = |item: &Value<'_>| {
        let text = item.as_str()?.trim();
        ((1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control)).then(|| text.to_owned())
    };
    let mut read = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match text(item) {
            Some(text) => read.push(text),
            None => faults.push(Fault::at(format!("{at}/{index}"), "must be a text of 1 to 200 characters")),
        }
    }
    (read.len() == items.len()).then_some(read)
}

fn lines_of(items: &[Value<'_>], base: &str, faults: &mut Vec<Fault>) -> Option<Vec<Line>> {
    let at = format!("{base}/prescription/lines");
    if !(1..=LINES_MAX).contains(&items.len()) {
        faults.push(Fault::at(at, format!("must have 1 to {LINES_MAX} lines")));
        return None;
    }
    let mut read = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match line(item, format!("{at}/{index}")) {
            Ok(line) => read.push(line),
            Err(mut found) => faults.append(&mut found),
        }
    }
    (read.len() == items.len()).then_some(read)
}

fn line(value: &Value<'_>, at: String) -> Result<Line, Vec<Fault>> {
    let mut fields = Fields::of(value, at);
    let sku = fields.id("sku");
    let name = fields.text("name", 200);
    let category = fields.required("category", "must be rx, otc or tcm", |value| Category::parse(value.as_str()?));
    let quantity = fields.integer("quantity", 1..=QUANTITY_MAX);
    let days = fields.optional_integer("days", 1..=DAYS_MAX);
    let dose = fields.optional("dose", "must be a text of 1 to 200 characters, or a number", dose);
    let line = (|| Some(Line { sku: sku?, name: name?, category: category?, quantity: quantity?, days, dose }))();
    fields.finish(line)
}

fn dose(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::String(text) => {
            let text = text.trim();
            let fits = (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use shared::json::parse;

    /// An order of one prescription drug, which no shipped rule minds.
    pub(crate) fn body(order_no: &str) -> serde_json::Value {
        json!({
            "order_no": order_no, "doctor_id": 17,
            "patient": {"id": 98, "name": "王芳", "phone": "13800138000"},
            "channel": "wechat",
            "prescription": {"id": "rx-1", "diagnosis": ["高血压"], "lines": [
                {"sku": "D-1", "name": "氨氯地平片", "category": "rx", "quantity": 2, "days": 28, "dose": "5mg qd"},
            ]},
            "address": "上海市徐汇区某路1号", "amount_fen": 12_800,
        })
    }

    pub(crate) fn read(body: &serde_json::Value) -> Result<Order, Vec<Fault>> {
        let text = body.to_string();
        Order::read(&parse(text.as_bytes()).unwrap(), "")
    }

    /// [`body`], read.
    pub(crate) fn order(order_no: &str) -> Order {
        read(&body(order_no)).unwrap()
    }

    #[test]
    fn an_order_is_read_and_written_as_it_came() {
        let body = body("ST-1");
        let order = read(&body).unwrap();
        let mut written = serde_json::to_value(&order).unwrap();
        assert_eq!(written["doctor_id"], "17", "an id is a text");
        written["doctor_id"] = json!(17);
        written["patient"]["id"] = json!(98);
        assert_eq!(written, body);
        let stored: Order = serde_json::from_str(&serde_json::to_string(&order).unwrap()).unwrap();
        assert_eq!(stored, order);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let mut body = body("ST 1");
        body["patient"]["phone"] = json!("call me");
        body["channel"] = json!("app");
        body["amount_fen"] = json!(0);
        body["colour"] = json!(1);
        body["prescription"]["diagnosis"] = json!(["", 7]);
        body["prescription"]["lines"] = json!([{"sku": "a", "category": "food", "quantity": 0, "days": -1}, 7]);
        let faults = read(&body).unwrap_err();
        let mut pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(
            pointers,
            [
                "/amount_fen",
                "/channel",
                "/colour",
                "/order_no",
                "/patient/phone",
                "/prescription/diagnosis/0",
                "/prescription/diagnosis/1",
                "/prescription/lines/0/category",
                "/prescription/lines/0/days",
                "/prescription/lines/0/name",
                "/prescription/lines/0/quantity",
                "/prescription/lines/1",
            ]
        );
    }

    #[test]
    fn lists_have_limits() {
        let mut body = body("ST-1");
        let line = body["prescription"]["lines"][0].clone();
        body["prescription"]["lines"] = json!(vec![line.clone(); LINES_MAX]);
        assert!(read(&body).is_ok());
        for lines in [json!(vec![line; LINES_MAX + 1]), json!([])] {
            body["prescription"]["lines"] = lines;
            assert_eq!(read(&body).unwrap_err()[0].pointer, "/prescription/lines");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_cut_or_changed_is_a_fault_or_an_order(place in 0usize..700, byte in any::<u8>()) {
            let mut text = body("ST-1").to_string().into_bytes();
            let place = place % text.len();
            text[place] = byte;
            if let Ok(value) = parse(&text) {
                match Order::read(&value, "") {
                    Ok(order) => prop_assert_eq!(serde_json::from_str::<Order>(&serde_json::to_string(&order).unwrap()).unwrap(), order),
                    Err(faults) => prop_assert!(!faults.is_empty()),
                }
            }
        }
    }
}
