// Descriptors that the sentry opens because a guest has a file: the last ones of its table are kept for its own needs (a new process, a checkpoint,
// the control socket), so that no guest can take these away by opening many files.
#pragma once

#include "sentry/base/unique_fd.h"

namespace amber {

// Called once, when the limit on descriptors is settled and before there are threads or filters. Until then nothing is kept.
void KeepDescriptorsForSelf();

// Owner of `fd`, as a host call returned it; if only the reserve is left, it is closed again, and errno is EMFILE.
UniqueFd GuestFd(int fd);

}  // namespace amber
