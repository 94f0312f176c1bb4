// Conversions between kernel values and their messages.
#pragma once

#include "checkpoint/state.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/signal.h"

namespace amber {

void SaveCredentials(state::Saver& saver, const Credentials& creds, proto::Credentials* out);
RefPtr<const Credentials> LoadCredentials(state::Loader& loader, const proto::Credentials& in);
void SaveSignals(const SignalQueue& queue, proto::SignalQueue* out);
// False if an entry is malformed.
bool LoadSignals(const proto::SignalQueue& in, SignalQueue* queue);

}  // namespace amber
