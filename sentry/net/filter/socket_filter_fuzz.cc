// Any bytes as a filter and a packet: what is accepted must run to a return and read nothing but the packet.
#include <fuzzer/FuzzedDataProvider.h>

#include "sentry/net/filter/socket_filter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  std::string text = data.ConsumeRandomLengthString(120);
  amber::FilterPacket packet;
  packet.bytes = text;
  packet.data = data.ConsumeIntegralInRange<size_t>(0, text.size());
  packet.network = data.ConsumeIntegralInRange<size_t>(0, text.size());
  packet.has_link = data.ConsumeBool();
  packet.inet = data.ConsumeBool();
  packet.interface = data.ConsumeIntegralInRange(0, 2);
  std::string code = data.ConsumeRemainingBytesAsString();
  code.resize(code.size() / sizeof(sock_filter) * sizeof(sock_filter));
  amber::RefPtr<const amber::SocketFilter> filter = amber::SocketFilter::FromBytes(code);
  if (!filter) return 0;
  (void)filter->Run(packet);
  AMBER_CHECK(filter->Bytes() == code);
  return 0;
}
