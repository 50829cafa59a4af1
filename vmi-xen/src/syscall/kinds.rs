// SPDX-License-Identifier: GPL-3.0-only
//! What an argument of a system call can be.

use super::names::Names;

/// Kind of one argument. Where another argument says how long something is, its
/// index is given.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A file descriptor, or another `int` in decimal.
    Int,
    /// A directory's file descriptor, or AT_FDCWD.
    Dir,
    /// An `unsigned int` in decimal.
    Uint,
    /// A user or group: unsigned, but for -1.
    Id,
    /// A `size_t` in decimal.
    Size,
    /// A `long` in decimal.
    Long,
    /// A signed 64-bit offset in a register.
    Offset,
    /// A word in hexadecimal.
    Hex,
    /// An address; what is there is not shown.
    Address,
    /// Permissions of a file.
    Mode,
    /// Type and permissions of a file.
    FileMode,
    /// One of a set of names.
    One(&'static Names),
    /// Flags of a set of names.
    Flags(&'static Names),
    /// A signal.
    Signal,

    /// Flags of open(2).
    OpenFlags,
    /// Permissions of a file that the flags in the argument before may make.
    OpenMode,
    /// Flags of mmap(2).
    MapFlags,
    /// A socket's type.
    SocketType,
    /// A socket's protocol, of the family in the first argument.
    SocketProtocol,
    /// An option of a socket, at the level in the argument before.
    SocketOption,
    /// The command of fcntl(2).
    Fcntl,
    /// What the command of fcntl(2) takes, if it takes something.
    FcntlArgument,
    /// The command of futex(2).
    Futex,
    /// Arguments of futex(2) from the fourth on, if the command takes them.
    FutexArgument,
    /// The second argument of prctl(2).
    PrctlArgument,
    /// Those after it, where the command takes them.
    PrctlRest,
    /// A device, if the mode before says that there is one.
    Device,

    /// A path.
    Path,
    /// A string, of which the first bytes are shown.
    Text,
    /// Bytes given to the kernel; their number is that argument.
    In(usize),
    /// Bytes from the kernel; their number is the result.
    Out,
    /// Random bytes from the kernel; their number is the result.
    OutRandom,
    /// A path from the kernel, ended by a NUL.
    OutPath,
    /// Parts of a message given to the kernel; their number is that argument.
    IovIn(usize),
    /// Parts of a message from the kernel; their number is that argument, the
    /// bytes' number the result.
    IovOut(usize),
    /// A message given to the kernel.
    MessageIn,
    /// A message from the kernel.
    MessageOut,
    /// A socket address; its length is that argument.
    SocketAddress(usize),
    /// A socket address from the kernel; its length is where that argument points.
    SocketAddressOut(usize),
    /// Where the length of a socket address, or of an option, goes in and out.
    LengthInOut,
    /// The value of a socket's option; its length is that argument.
    OptionIn(usize),
    /// The value of a socket's option, from the kernel; its length is where that
    /// argument points.
    OptionOut(usize),
    /// Arguments of a program.
    Argv,
    /// The environment of a program.
    Envp,
    /// `struct timespec` of the ABI.
    Timespec,
    /// `struct timespec` of 64 bits in every ABI.
    Timespec64,
    /// `struct timespec` from the kernel.
    TimespecOut,
    /// `struct timespec` of 64 bits, from the kernel.
    Timespec64Out,
    /// Rest of a sleep: told where it was interrupted.
    Remaining,
    /// `struct timeval` of the ABI.
    Timeval,
    /// `struct timeval` from the kernel.
    TimevalOut,
    /// Two `struct timespec`: access and modification.
    Times,
    /// `struct itimerspec`.
    Itimerspec,
    /// `struct itimerspec` from the kernel.
    ItimerspecOut,
    /// `struct itimerval`.
    Itimerval,
    /// `struct itimerval` from the kernel.
    ItimervalOut,
    /// `struct stat` from the kernel, as the 64-bit ABI has it; of i386 the one
    /// of 1994.
    Stat,
    /// `struct stat64` of i386, from the kernel.
    Stat64,
    /// `struct statx` from the kernel.
    Statx,
    /// `struct statfs` from the kernel.
    Statfs,
    /// Two file descriptors from the kernel.
    Pair,
    /// An `int` from the kernel.
    IntOut,
    /// An `off_t` that goes in and out.
    OffsetInOut,
    /// A 64-bit offset from the kernel.
    OffsetOut,
    /// What wait4(2) tells of a child.
    WaitStatus,
    /// `struct rusage` from the kernel, if there was a child.
    Rusage,
    /// `struct rlimit` of words.
    Rlimit,
    /// `struct rlimit` of words, from the kernel.
    RlimitOut,
    /// `struct rlimit64`.
    Rlimit64,
    /// `struct rlimit64` from the kernel.
    Rlimit64Out,
    /// `struct utsname` from the kernel.
    Uname,
    /// Files to poll; their number is that argument.
    PollFds(usize),
    /// A `struct epoll_event`, if the operation before takes one.
    EpollEvent,
    /// `struct epoll_event`s from the kernel; their number is the result.
    EpollEvents,
    /// A set of files, of as many as the first argument says.
    FdSet,
    /// A set of signals; its size is that argument.
    SignalSet(usize),
    /// A set of signals from the kernel; its size is that argument.
    SignalSetOut(usize),
    /// `struct sigaction`.
    SignalAction,
    /// `struct sigaction` from the kernel.
    SignalActionOut,
    /// Entries of a directory, from the kernel: only counted.
    Entries,
    /// `struct clone_args`.
    CloneArgs,
    /// `struct open_how`.
    OpenHow,
    /// Arguments of socketcall(2), of the call in the first one.
    SocketcallArguments,
}

/// In what order and under what names arguments are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One after the other.
    Plain,
    /// clone(2) of x86-64: by name, and only those that the flags ask for.
    Clone,
    /// The same with the fourth and fifth argument the other way round, as i386
    /// has it.
    CloneBackwards,
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// In decimal.
    Decimal,
    /// An address, or flags in hexadecimal.
    Hex,
    /// Permissions.
    Octal,
    /// It does not return.
    Never,
    /// fcntl(2): it depends on the command.
    Fcntl,
    /// poll(2): with what happened, or `Timeout`.
    Poll,
    /// Like select(2): 0 is a timeout.
    Timeout,
}
