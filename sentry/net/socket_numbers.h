// Numbers of socket options and control messages that are newer than the C library's headers here (asm-generic/socket.h).
#pragma once

namespace amber {

inline constexpr int kSoPeerGroups = 59, kSoPassPidfd = 76, kSoPeerPidfd = 77, kSoPassRights = 83;
inline constexpr int kSoTimestampNew = 63, kSoTimestampNsNew = 64, kSoTimestampingNew = 65, kSoRcvTimeoNew = 66, kSoSndTimeoNew = 67;
inline constexpr int kSoDetachReuseportBpf = 68, kSoBusyPollBudget = 70, kSoBufLock = 72, kSoReserveMem = 73, kSoTxRehash = 74, kSoRcvMark = 75,
                     kSoRcvPriority = 82;
// Of an option that is kept, the second number.
inline constexpr int kUpperHalf = 1 << 16;
inline constexpr int kScmPidfd = 4;
// SIOCGSTAMP and SIOCGSTAMPNS, by the numbers of both kinds of time (linux/sockios.h); the two are alike on 64 bits.
inline constexpr unsigned kSiocGStamp = 0x8906, kSiocGStampNs = 0x8907, kSiocGStampNew = 0x80108906, kSiocGStampNsNew = 0x80108907;

}  // namespace amber
