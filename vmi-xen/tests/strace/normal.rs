// SPDX-License-Identifier: GPL-3.0-only
//! What two runs of one program may differ in is made alike, so that their traces can be compared line by line.

/// Calls whose result is a process.
const GIVE_A_PROCESS: [&str; 8] = [
    "getpid",
    "gettid",
    "getppid",
    "clone",
    "clone3",
    "fork",
    "wait4",
    "set_tid_address",
];

/// Normalises one line of a trace; `None` for lines that are no call.
pub fn normal(line: &str) -> Option<String> {
    // strace fills up to the equals sign with blanks.
    let (call, result) = line.rsplit_once(" = ")?;
    let call = call.trim_end();
    let name = call.split('(').next()?;
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return None;
    }
    let result = match result.parse::<u32>() {
        Ok(1..) if GIVE_A_PROCESS.contains(&name) => "PID".to_owned(),
        _ => without_addresses(result),
    };
    let call = if name == "wait4" {
        after_first_argument(call)
    } else {
        call.to_owned()
    };
    Some(format!("{} = {result}", without_addresses(&call)))
}

/// Replaces what looks like an address of memory: these differ with every run.
fn without_addresses(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("0x") {
        let (before, from) = rest.split_at(at);
        let digits = from[2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        out.push_str(before);
        // Flags and sizes have fewer digits, or zeros at the end where an address of data has none.
        if digits >= 9 {
            out.push_str("ADDRESS")
        } else {
            out.push_str(&from[..2 + digits])
        }
        rest = &from[2 + digits..];
    }
    out.push_str(rest);
    out
}

fn after_first_argument(call: &str) -> String {
    match call
        .split_once('(')
        .and_then(|(name, args)| Some((name, args.split_once(',')?.1)))
    {
        Some((name, rest)) => format!("{name}(PID,{rest}"),
        None => call.to_owned(),
    }
}
