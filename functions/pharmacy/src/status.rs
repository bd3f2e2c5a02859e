//! The life of an order as one table: which event moves it from where to where.

use serde::Serialize;

macro_rules! names {
    ($(#[$about:meta])* $name:ident: $($variant:ident $key:literal $doc:literal,)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub(crate) enum $name {
            $(#[doc = $doc] #[serde(rename = $key)] $variant,)*
        }

        impl $name {
            /// All of them.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $key,)* }
            }

            /// Reads a name.
            pub(crate) fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }
        }
    };
}

names! {
    /// Where an order is.
    Status:
    Received "received" "It came in; the rules have not spoken.",
    UnderReview "under_review" "It waits for a pharmacist.",
    AwaitingPayment "awaiting_payment" "The patient has been asked to pay.",
    Submitted "submitted" "It is paid, and goes to the partner.",
    Accepted "accepted" "The partner takes it on.",
    Dispensed "dispensed" "The partner has made it up.",
    Shipped "shipped" "It is on its way.",
    Delivered "delivered" "The patient has it.",
    Rejected "rejected" "A rule, a pharmacist or the partner refused it.",
    OutOfStock "out_of_stock" "The partner does not have it.",
    Cancelled "cancelled" "It was called off.",
}

names! {
    /// What happens to an order.
    Event:
    Passed "passed" "No rule minds it.",
    Queued "queued" "A rule wants a pharmacist to see it.",
    Refused "refused" "A rule forbids it.",
    Approved "approved" "A pharmacist lets it pass.",
    TurnedDown "turned_down" "A pharmacist forbids it.",
    Paid "paid" "The patient has paid.",
    PartnerAccepted "partner_accepted" "The partner takes it on.",
    PartnerDispensed "partner_dispensed" "The partner has made it up.",
    PartnerShipped "partner_shipped" "The partner has sent it.",
    PartnerDelivered "partner_delivered" "The partner says that it has arrived.",
    PartnerRejected "partner_rejected" "The partner will not do it.",
    PartnerOutOfStock "partner_out_of_stock" "The partner does not have it.",
    Cancelled "cancelled" "The clinic or the patient calls it off.",
}

use Status::{
    Accepted, AwaitingPayment, Delivered, Dispensed, OutOfStock, Received, Rejected, Shipped, Submitted, UnderReview,
};

/// One row: an event moves an order from any of these to that.
pub(crate) struct Move {
    pub(crate) event: Event,
    pub(crate) from: &'static [Status],
    pub(crate) to: Status,
}

const fn row(event: Event, from: &'static [Status], to: Status) -> Move {
    Move { event, from, to }
}

/// The table. What a partner reports may skip steps, as its calls may overtake one another; no row leads back, so that
/// what comes late or again finds no row.
pub(crate) const MOVES: [Move; 13] = [
    row(Event::Passed, &[Received], AwaitingPayment),
    row(Event::Queued, &[Received], UnderReview),
    row(Event::Refused, &[Received], Rejected),
    row(Event::Approved, &[UnderReview], AwaitingPayment),
    row(Event::TurnedDown, &[UnderReview], Rejected),
    row(Event::Paid, &[AwaitingPayment], Submitted),
    row(Event::PartnerAccepted, &[Submitted], Accepted),
    row(Event::PartnerDispensed, &[Submitted, Accepted], Dispensed),
    row(Event::PartnerShipped, &[Submitted, Accepted, Dispensed], Shipped),
    row(Event::PartnerDelivered, &[Submitted, Accepted, Dispensed, Shipped], Delivered),
    row(Event::PartnerRejected, &[Submitted, Accepted], Rejected),
    row(Event::PartnerOutOfStock, &[Submitted, Accepted], OutOfStock),
    row(Event::Cancelled, &[UnderReview, AwaitingPayment, Submitted, Accepted], Status::Cancelled),
];

impl Event {
    /// Where it may find an order, and where it takes it.
    pub(crate) fn row(self) -> &'static Move {
        // Every event has a row: a test holds it.
        MOVES.iter().find(|row| row.event == self).unwrap_or(&MOVES[0])
    }

    /// Whether a partner says it, who can have nothing to say before it was given the order.
    pub(crate) const fn is_partners(self) -> bool {
        use Event::{
            PartnerAccepted, PartnerDelivered, PartnerDispensed, PartnerOutOfStock, PartnerRejected, PartnerShipped,
        };
        matches!(
            self,
            PartnerAccepted
                | PartnerDispensed
                | PartnerShipped
                | PartnerDelivered
                | PartnerRejected
                | PartnerOutOfStock
        )
    }
}

impl Status {
    /// Whether a paid order that ended here is owed its money.
    pub(crate) const fn owes_refund(self) -> bool {
        matches!(self, Rejected | OutOfStock | Self::Cancelled)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Where `event` takes an order that is at `from`.
    fn step(from: Status, event: Event) -> Option<Status> {
        let row = event.row();
        row.from.contains(&from).then_some(row.to)
    }

    #[test]
    fn every_event_has_one_row() {
        assert_eq!(MOVES.len(), Event::ALL.len());
        for event in Event::ALL {
            assert_eq!(event.row().event, *event);
        }
    }

    /// The life of an order as DESIGN.md tells it: where it is, what happens, where it goes.
    pub(crate) const LIFE: [(&str, &str, &str); 24] = [
        ("received", "passed", "awaiting_payment"),
        ("received", "queued", "under_review"),
        ("received", "refused", "rejected"),
        ("under_review", "approved", "awaiting_payment"),
        ("under_review", "turned_down", "rejected"),
        ("under_review", "cancelled", "cancelled"),
        ("awaiting_payment", "paid", "submitted"),
        ("awaiting_payment", "cancelled", "cancelled"),
        ("submitted", "partner_accepted", "accepted"),
        ("submitted", "partner_dispensed", "dispensed"),
        ("submitted", "partner_shipped", "shipped"),
        ("submitted", "partner_delivered", "delivered"),
        ("submitted", "partner_rejected", "rejected"),
        ("submitted", "partner_out_of_stock", "out_of_stock"),
        ("submitted", "cancelled", "cancelled"),
        ("accepted", "partner_dispensed", "dispensed"),
        ("accepted", "partner_shipped", "shipped"),
        ("accepted", "partner_delivered", "delivered"),
        ("accepted", "partner_rejected", "rejected"),
        ("accepted", "partner_out_of_stock", "out_of_stock"),
        ("accepted", "cancelled", "cancelled"),
        ("dispensed", "partner_shipped", "shipped"),
        ("dispensed", "partner_delivered", "delivered"),
        ("shipped", "partner_delivered", "delivered"),
    ];

    #[test]
    fn the_table_is_the_life_of_an_order_and_nothing_else() {
        let mut found = BTreeSet::new();
        for from in Status::ALL {
            for event in Event::ALL {
                found.extend(step(*from, *event).map(|to| (from.as_str(), event.as_str(), to.as_str())));
            }
        }
        assert_eq!(found, LIFE.into());
    }

    #[test]
    fn no_way_leads_back() {
        // Then an order enters a status once at most, which is what each of its messages is known by.
        fn reach(from: Status, seen: &mut Vec<Status>) {
            for to in Event::ALL.iter().filter_map(|event| step(from, *event)) {
                assert!(!seen.contains(&to), "{seen:?} → {to:?}");
                seen.push(to);
                reach(to, seen);
                seen.pop();
            }
        }
        reach(Received, &mut vec![Received]);
    }
}
