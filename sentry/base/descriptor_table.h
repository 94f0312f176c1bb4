// The size of this process's table of descriptors in the host's kernel.
#pragma once

namespace amber {

// Makes room for `count` descriptors at once, while the process has a single thread; `any` is an open one. The table doubles as it fills, and each
// time a process with several threads waits for an RCU grace period, 10 to 20 ms (expand_fdtable() in the kernel's fs/file.c): a sandbox that
// opened its 64th, 128th, 256th ... file stood still that long. A place costs 8 bytes of the host's memory. Where the limit of descriptors is
// lower there is room for fewer.
void ReserveDescriptors(int any, int count);

}  // namespace amber
