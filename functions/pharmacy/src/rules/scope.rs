//! An order as rules see it: records that borrow from it, so that nothing is copied for an evaluation.
//!
//! What rules have no use for is not there: names, telephone numbers, addresses.

use std::borrow::Cow;

use cel::{
    ExecutionError,
    common::{
        traits::{Container, Indexer, Sizer},
        types::{CelBool, CelDouble, CelInt, CelList, CelString, MAP_TYPE, Type},
        value::{CowVal, Val},
    },
};

use crate::order::{Line, Order};

/// Anything that CEL evaluates on.
pub(super) type Boxed<'v> = Box<dyn Val + 'v>;

/// A few fields by name. Searched, not hashed: that is faster for so few, and needs no copy of a name.
#[derive(Debug, Default)]
pub(super) struct Record<'v>(Vec<(Cow<'v, str>, Boxed<'v>)>);

impl<'v> Record<'v> {
    pub(super) fn new(fields: Vec<(Cow<'v, str>, Boxed<'v>)>) -> Self {
        Self(fields)
    }

    fn find(&self, key: &dyn Val) -> Option<&(dyn Val + 'v)> {
        let name = key.downcast_ref::<CelString<'_>>()?.inner();
        self.0.iter().find_map(|(known, value)| (known == name).then_some(value.as_ref()))
    }
}

impl Val for Record<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    /// Field by field, in whatever order the other has them. Lists compare their own elements likewise.
    fn equals(&self, other: &dyn Val) -> bool {
        let (Some(fields), Some(size)) = (other.as_indexer(), other.as_sizer()) else { return false };
        let alike = |(name, value): &(Cow<'_, str>, Boxed<'_>)| {
            fields.get(&CelString::from(name.as_ref())).is_ok_and(|found| value.equals(&*found))
        };
        other.get_type() == &MAP_TYPE && size.size() == self.size() && self.0.iter().all(alike)
    }

    fn clone_as_boxed<'w>(&self) -> Boxed<'w>
    where
        Self: 'w,
    {
        let mut copy: Vec<(Cow<'w, str>, Boxed<'w>)> = Vec::with_capacity(self.0.len());
        for (name, value) in &self.0 {
            copy.push((Cow::Owned(name.as_ref().to_owned()), value.clone_as_boxed()));
        }
        Box::new(Record(copy))
    }
}

impl Container for Record<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.find(key).is_some())
    }
}

impl Sizer for Record<'_> {
    fn size(&self) -> CelInt {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX).into()
    }
}

impl<'v> Indexer for Record<'v> {
    fn get<'b, 'w>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let missing = || {
            let name = key.downcast_ref::<CelString<'_>>().map_or("?", |name| name.inner());
            ExecutionError::no_such_key(name)
        };
        self.find(key).map(CowVal::Borrowed).ok_or_else(missing)
    }

    fn steal<'w>(self: Box<Self>, key: &dyn Val) -> Result<Boxed<'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

fn text<'v>(text: &'v str) -> Boxed<'v> {
    Box::new(CelString::from(text))
}

fn integer<'v>(number: i64) -> Boxed<'v> {
    Box::new(CelInt::from(number))
}

fn list(items: Vec<Boxed<'_>>) -> Boxed<'_> {
    Box::new(CelList::from(items))
}

fn record<'v>(fields: Vec<(&'static str, Boxed<'v>)>) -> Boxed<'v> {
    Box::new(Record::new(fields.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect()))
}

/// `line`: `has(line.days)` tells whether the doctor said how long it lasts.
pub(super) fn line(line: &Line) -> Boxed<'_> {
    let mut fields = Vec::with_capacity(6);
    fields.extend([
        ("sku", text(line.sku.as_str())),
        ("name", text(&line.name)),
        ("category", text(line.category.as_str())),
        ("quantity", integer(line.quantity)),
    ]);
    fields.extend(line.days.map(|days| ("days", integer(days))));
    fields.extend(line.dose.as_deref().map(|dose| ("dose", text(dose))));
    record(fields)
}

/// `prescription`.
pub(super) fn prescription(order: &Order) -> Boxed<'_> {
    let prescription = &order.prescription;
    record(vec![
        ("id", text(prescription.id.as_str())),
        ("diagnosis", list(prescription.diagnosis.iter().map(|diagnosis| text(diagnosis)).collect())),
        ("lines", list(prescription.lines.iter().map(line).collect())),
    ])
}

/// `order`.
pub(super) fn order(order: &Order) -> Boxed<'_> {
    let channel = order.channel.of_messages().as_str();
    record(vec![
        ("order_no", text(order.order_no.as_str())),
        ("doctor_id", text(order.doctor_id.as_str())),
        ("patient_id", text(order.patient.id.as_str())),
        ("channel", text(channel)),
        ("amount_fen", integer(order.amount_fen)),
        ("lines", list(order.prescription.lines.iter().map(line).collect())),
        ("prescription", prescription(order)),
    ])
}

/// A constant of a rule set; `None` for what CEL has no such value for.
pub(super) fn constant(value: &serde_json::Value) -> Option<Boxed<'static>> {
    Some(match value {
        serde_json::Value::Bool(flag) => Box::new(CelBool::from(*flag)),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => integer(number),
            None => Box::new(CelDouble::from(number.as_f64()?)),
        },
        serde_json::Value::String(text) => Box::new(CelString::from(text.clone())),
        serde_json::Value::Array(items) => list(items.iter().map(constant).collect::<Option<_>>()?),
        serde_json::Value::Object(fields) => {
            let field =
                |(name, value): (&String, &serde_json::Value)| Some((Cow::Owned(name.clone()), constant(value)?));
            Box::new(Record::new(fields.iter().map(field).collect::<Option<_>>()?))
        }
        serde_json::Value::Null => return None,
    })
}
