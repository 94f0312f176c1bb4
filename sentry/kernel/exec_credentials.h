// What execve makes of credentials: capabilities(7), "Transformation of capabilities during execve()", and set-user-id bits.
#pragma once

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/credentials.h"
#include "sentry/vfs/exec_open.h"

namespace amber {

class Task;

// The credentials after `task` executes a file with `ids`. Sets *secure if the file raised them (AT_SECURE).
ErrnoOr<RefPtr<const Credentials>> CredentialsForExec(const Task& task, const ExecIds& ids, bool* secure);
// Somebody without the right to do so could use what a program that `task` executes gains.
bool GainsAreUnsafe(const Task& task);
// `next` is more than `task` has.
bool IsGain(const Task& task, const Credentials& next);

}  // namespace amber
