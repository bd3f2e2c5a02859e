//! The states of an order, by key and by Chinese label.

use serde::Serialize;

macro_rules! statuses {
    ($($name:ident $key:literal $label:literal,)*) => {
        /// A state of an order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub(crate) enum Status {
            $(#[doc = $label] #[serde(rename = $key)] $name,)*
        }

        impl Status {
            /// All of them.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its key, as configuration and the plain form write it.
            pub(crate) const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// Its label, as the business writes it.
            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

statuses! {
    PendingPayment "pending_payment" "待支付",
    Paying "paying" "支付中",
    Cancelled "cancelled" "已取消",
    AwaitingAcceptance "awaiting_acceptance" "待接单",
    PriorityAwaitingAcceptance "priority_awaiting_acceptance" "高优先待接单",
    Dispatching "dispatching" "派单",
    AwaitingService "awaiting_service" "待服务",
    InService "in_service" "服务中",
    ServiceOverdue "service_overdue" "服务超时",
    ServiceAbnormal "service_abnormal" "服务异常",
    ServiceCompleted "service_completed" "服务完成",
    RefundRequested "refund_requested" "退款申请中",
    Disputed "disputed" "服务纠纷",
    Refunding "refunding" "退款中",
    Refunded "refunded" "已退款",
}

impl Status {
    /// Reads a key or a label.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.key() == name || status.label() == name)
    }

    /// Its place in [`Status::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_key_and_a_label_name_one_status_each() {
        let names: HashSet<&str> = Status::ALL.iter().flat_map(|status| [status.key(), status.label()]).collect();
        assert_eq!(names.len(), 2 * Status::ALL.len());
        for (index, status) in Status::ALL.iter().enumerate() {
            assert_eq!(Status::parse(status.key()), Some(*status));
            assert_eq!(Status::parse(status.label()), Some(*status));
            assert_eq!(status.index(), index);
        }
        assert_eq!(Status::parse("服务"), None);
    }
}
