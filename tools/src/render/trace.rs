// SPDX-License-Identifier: GPL-3.0-only
//! Traces: who made which call, and what came of it. What is no call starts with a `#`.

use policyd_api::{TraceItem, TracedCall};

use super::plain;
use super::time::timestamp;

/// One item in one line.
pub fn sentence(item: &TraceItem) -> String {
    match item {
        TraceItem::Call(call) => one(call),
        TraceItem::Begin { calls, gaps } => {
            let gaps: String = gaps.iter().map(|gap| format!("\n# {}", plain(gap))).collect();
            format!("# tracing {}{gaps}", calls.join(", "))
        }
        TraceItem::LeftOut { count, at_least } => {
            let at_least = if *at_least { "at least " } else { "" };
            format!("# {at_least}{count} calls were left out: more came than --limit allows in a second")
        }
        TraceItem::Rest { why, .. } => format!("# no call is told for a while: the trace {}", plain(why)),
        TraceItem::Resumed => "# calls are told again".to_owned(),
        TraceItem::Lost { count } => format!("# {count} calls were lost: this reader was too slow"),
        TraceItem::End { why: None } => "# the end".to_owned(),
        TraceItem::End { why: Some(why) } => format!("# the end: {}", plain(why)),
    }
}

fn one(call: &TracedCall) -> String {
    let thread = if call.tid == call.pid {
        String::new()
    } else {
        format!("/{}", call.tid)
    };
    let program = call.exe.as_deref().unwrap_or(&call.comm);
    let abi = match call.abi.as_str() {
        "x86_64" => String::new(),
        other => format!(" {other}"),
    };
    format!(
        "{} {}{thread} {} uid={}{abi} {}",
        timestamp(call.time_ns),
        call.pid,
        plain(program),
        call.uid,
        plain(&call.text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> TracedCall {
        TracedCall {
            time_ns: 1_764_000_000_123_000_000,
            pid: 77,
            tid: 77,
            comm: "nginx".into(),
            exe: Some("/usr/sbin/nginx".into()),
            uid: 33,
            euid: 33,
            container: None,
            abi: "x86_64".into(),
            syscall: "close".into(),
            args: vec!["3".into()],
            result: Some(0),
            error: None,
            text: "close(3) = 0".into(),
        }
    }

    #[test]
    fn a_line_says_who_and_what() {
        let text = sentence(&TraceItem::Call(call()));
        assert_eq!(
            text,
            "2025-11-24T16:00:00.123Z 77 /usr/sbin/nginx uid=33 close(3) = 0"
        );
        let thread = TracedCall {
            tid: 78,
            exe: None,
            abi: "i386".into(),
            ..call()
        };
        let text = sentence(&TraceItem::Call(thread));
        assert_eq!(
            text,
            "2025-11-24T16:00:00.123Z 77/78 nginx uid=33 i386 close(3) = 0"
        );
    }

    #[test]
    fn what_is_no_call_is_a_comment() {
        let begin = TraceItem::Begin {
            calls: vec!["openat".into(), "close".into()],
            gaps: vec!["close: what it returns is not seen".into()],
        };
        assert_eq!(
            sentence(&begin),
            "# tracing openat, close\n# close: what it returns is not seen"
        );
        let left_out = TraceItem::LeftOut {
            count: 5,
            at_least: true,
        };
        assert!(sentence(&left_out).starts_with("# at least 5 calls"));
        let rest = TraceItem::Rest {
            seconds: 10,
            why: "rests for 10 s: traps took 9.0 % of a vCPU".into(),
        };
        assert_eq!(
            sentence(&rest),
            "# no call is told for a while: the trace rests for 10 s: traps took 9.0 % of a vCPU"
        );
        assert_eq!(sentence(&TraceItem::Resumed), "# calls are told again");
    }
}
