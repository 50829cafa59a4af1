// SPDX-License-Identifier: GPL-3.0-only
use proptest::prelude::*;

use super::super::table::all;
use super::*;

/// Memory that has bytes at one place.
struct At(u64, Vec<u8>);

impl UserMemory for At {
    fn read(&self, va: u64, buf: &mut [u8]) -> usize {
        let Some(start) = va
            .checked_sub(self.0)
            .map(|at| at as usize)
            .filter(|at| *at < self.1.len())
        else {
            return 0;
        };
        let some = &self.1[start..];
        let len = some.len().min(buf.len());
        buf[..len].copy_from_slice(&some[..len]);
        len
    }
}

/// Memory that has not been touched yet.
struct Nothing;

impl UserMemory for Nothing {
    fn read(&self, _: u64, _: &mut [u8]) -> usize {
        0
    }
}

const HERE: u64 = 0x7000_0000;

fn call(abi: Abi, name: &str, args: &[u64]) -> Call {
    let number = table::by_name(abi, name)
        .and_then(|call| call.number(abi))
        .expect(name);
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    Call::new(abi, number.into(), all)
}

/// A whole call, as it is printed.
fn line(call: &Call, before: &dyn UserMemory, after: &dyn UserMemory, result: i64) -> String {
    let mut arguments = call.enter(before);
    call.leave(after, result as u64, &mut arguments);
    let shown = arguments.texts(call).join(", ");
    format!(
        "{}({shown}) = {}",
        call.name(),
        call.result(result as u64, &arguments)
    )
}

fn same(call: &Call, memory: &dyn UserMemory, result: i64) -> String {
    line(call, memory, memory, result)
}

#[test]
fn a_path_that_is_not_there_yet_is_read_at_the_return() {
    let at_fdcwd = 0xffff_ff9c;
    let openat = call(Abi::X64, "openat", &[at_fdcwd, HERE, 0o2000000, 0]);
    let there = At(HERE, b"/etc/passwd\0".to_vec());
    let expected = r#"openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3"#;
    assert_eq!(line(&openat, &Nothing, &there, 3), expected);
    assert_eq!(line(&openat, &there, &Nothing, 3), expected);
    assert_eq!(
        line(&openat, &Nothing, &Nothing, -14),
        "openat(AT_FDCWD, 0x70000000, O_RDONLY|O_CLOEXEC) = -1 EFAULT (Bad address)"
    );
}

#[test]
fn a_mode_only_where_a_file_may_be_made() {
    let there = At(HERE, b"f\0".to_vec());
    let create = call(Abi::X64, "open", &[HERE, 0o1101, 0o640]);
    assert_eq!(
        same(&create, &there, 3),
        r#"open("f", O_WRONLY|O_CREAT|O_TRUNC, 0640) = 3"#
    );
}

#[test]
fn what_the_kernel_writes_is_read_at_the_return() {
    let read = call(Abi::X64, "read", &[3, HERE, 100]);
    let after = At(HERE, b"hello\n".to_vec());
    assert_eq!(
        line(&read, &At(HERE, vec![0xff; 100]), &after, 6),
        r#"read(3, "hello\n", 100) = 6"#
    );
    assert_eq!(
        line(&read, &after, &after, -9),
        "read(3, 0x70000000, 100) = -1 EBADF (Bad file descriptor)"
    );
    assert_eq!(read.enter(&after).texts(&read), ["3", "?", "100"]);
}

#[test]
fn addresses_of_all_families() {
    let shown = |bytes: &[u8]| {
        let connect = call(Abi::X64, "connect", &[3, HERE, bytes.len() as u64]);
        same(&connect, &At(HERE, bytes.to_vec()), 0)
    };
    assert_eq!(
        shown(&[2, 0, 0, 9, 10, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0]),
        r#"connect(3, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("10.0.0.12")}, 16) = 0"#
    );
    let mut six = vec![10, 0, 0, 80, 0, 0, 0, 0];
    six.extend([0; 15]);
    six.extend([1, 2, 0, 0, 0]);
    assert_eq!(
        shown(&six),
        "connect(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), \
         inet_pton(AF_INET6, \"::1\", &sin6_addr), sin6_scope_id=2}, 28) = 0"
    );
    assert_eq!(
        shown(b"\x01\0/run/x\0"),
        r#"connect(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 9) = 0"#
    );
    assert_eq!(
        shown(b"\x01\0\0abc"),
        r#"connect(3, {sa_family=AF_UNIX, sun_path=@"abc"}, 6) = 0"#
    );
    assert_eq!(
        shown(&[16, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]),
        "connect(3, {sa_family=AF_NETLINK, nl_pid=5, nl_groups=00000001}, 12) = 0"
    );
}

#[test]
fn the_length_of_an_address_goes_in_and_out() {
    // The address lies 16 bytes behind its length.
    let memory = |len: u32| {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend([0; 12]);
        bytes.extend([2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        At(HERE, bytes)
    };
    let accept = call(Abi::X64, "accept4", &[3, HERE + 16, HERE, 0]);
    assert_eq!(
        line(&accept, &memory(128), &memory(16), 4),
        r#"accept4(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, [128 => 16], 0) = 4"#
    );
    assert_eq!(
        line(&accept, &memory(128), &memory(128), -11),
        "accept4(3, 0x70000010, [128], 0) = -1 EAGAIN (Resource temporarily unavailable)"
    );
}

#[test]
fn the_32_bit_abi_has_short_words() {
    // argv at HERE: two pointers of four bytes, and NULL; the strings follow.
    let mut bytes = Vec::new();
    for pointer in [HERE as u32 + 12, HERE as u32 + 15, 0] {
        bytes.extend(pointer.to_le_bytes());
    }
    bytes.extend(b"sh\0-c\0/bin/sh\0");
    let execve = call(Abi::Ia32, "execve", &[HERE + 18, HERE, 0, 0xffff]);
    assert_eq!(
        same(&execve, &At(HERE, bytes), 0),
        r#"execve("/bin/sh", ["sh", "-c"], NULL) = 0"#
    );
    // Registers have 64 bits all the same.
    let close = call(Abi::Ia32, "close", &[0xdead_0000_ffff_ffff]);
    assert_eq!(
        same(&close, &Nothing, -9),
        "close(-1) = -1 EBADF (Bad file descriptor)"
    );
}

#[test]
fn calls_without_a_signature_are_shown_in_hexadecimal() {
    let unknown = Call::new(Abi::X64, 5000, [1, 0, 2, 3, 4, 0xffff_ffff_ffff_ffff]);
    assert_eq!(
        same(&unknown, &Nothing, -38),
        "syscall_0x1388(0x1, 0, 0x2, 0x3, 0x4, 0xffffffffffffffff) = -1 ENOSYS (Function not implemented)"
    );
}

#[test]
fn a_number_of_x32_is_the_call_of_the_64_bit_abi() {
    assert_eq!(Call::new(Abi::X64, 0x4000_0000 | 39, [0; 6]).name(), "getpid");
}

/// A process may pass what it likes.
struct Hostile(Vec<u8>);

impl UserMemory for Hostile {
    fn read(&self, va: u64, buf: &mut [u8]) -> usize {
        for (index, byte) in buf.iter_mut().enumerate() {
            *byte = self.0[(va as usize).wrapping_add(index) % self.0.len()];
        }
        buf.len()
    }
}

proptest! {
    #[test]
    fn hostile_arguments_give_bounded_text(
        at in 0..all().len(),
        ia32: bool,
        args: [u64; 6],
        result in prop_oneof![any::<u64>(), (0u64..200), (0u64..200).prop_map(u64::wrapping_neg)],
        bytes in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let abi = if ia32 { Abi::Ia32 } else { Abi::X64 };
        let Some(number) = all()[at].number(abi) else { return Ok(()); };
        let call = Call::new(abi, number.into(), args);
        let memory = Hostile(bytes);
        let mut arguments = call.enter(&memory);
        call.leave(&memory, result, &mut arguments);
        prop_assert!(arguments.text.len() <= MAX_TEXT);
        prop_assert!(!arguments.texts(&call).contains(&"?"), "{}", call.name());
    }
}
