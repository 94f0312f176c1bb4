#include "runsc-cli/mount_options.h"

#include <gtest/gtest.h>

namespace amber::cli {
namespace {

TEST(MountOptions, Amounts) {
  EXPECT_EQ(ParseAmount("100"), 100u);
  EXPECT_EQ(ParseAmount("64k"), 64u << 10);
  EXPECT_EQ(ParseAmount("3M"), 3u << 20);
  EXPECT_EQ(ParseAmount("2GiB"), uint64_t{2} << 30);
  EXPECT_EQ(ParseAmount("1t"), uint64_t{1} << 40);
  for (const char* bad : {"", "0", "k", "-1", "1x", "1kk", "1ib", "1 k", "99999999t", "18446744073709551616"}) EXPECT_EQ(ParseAmount(bad), 0u) << bad;
}

TEST(MountOptions, Overlay) {
  auto flag = ParseOverlay("memory,size=2g");
  ASSERT_TRUE(flag.ok());
  EXPECT_EQ(flag->kind, "memory");
  EXPECT_EQ(flag->bytes, uint64_t{2} << 30);
  EXPECT_EQ(flag->inodes, flag->bytes / 4096);
  flag = ParseOverlay("memory,size=5000,nr_inodes=10k");
  ASSERT_TRUE(flag.ok());
  EXPECT_EQ(flag->bytes, 8192u);
  EXPECT_EQ(flag->inodes, 10240u);
  for (const char* good : {"", "none", "memory"}) EXPECT_TRUE(ParseOverlay(good).ok()) << good;
  for (const char* bad :
       {"file", "memory,", "memory,size", "memory,size=", "memory,size=0", "memory,size=lots", "none,size=1g", "memory,mode=700", ",size=1g"}) {
    EXPECT_FALSE(ParseOverlay(bad).ok()) << bad;
  }
}

TEST(MountOptions, OverlayByAnnotation) {
  std::map<std::string, std::string> annotations = {{"org.amber.overlay.size", "16m"}, {"other", "x"}};
  EXPECT_TRUE(SetOverlayLimits({}, &annotations).ok());
  EXPECT_EQ(annotations["org.amber.overlay.size"], "16777216");
  EXPECT_EQ(annotations["org.amber.overlay.nr_inodes"], "4096");
  // The flag counts.
  EXPECT_TRUE(SetOverlayLimits(*ParseOverlay("memory,size=8k"), &annotations).ok());
  EXPECT_EQ(annotations["org.amber.overlay.size"], "8192");
  EXPECT_EQ(annotations["org.amber.overlay.nr_inodes"], "1024");
  EXPECT_EQ(annotations["other"], "x");
  annotations["org.amber.overlay.size"] = "-5";
  EXPECT_FALSE(SetOverlayLimits({}, &annotations).ok());
}

TEST(MountOptions, HostFiles) {
  HostFiles files;
  EXPECT_TRUE(ParseHostFifo("open", &files).ok());
  EXPECT_TRUE(files.fifos);
  EXPECT_TRUE(ParseHostFifo("none", &files).ok());
  EXPECT_FALSE(files.fifos);
  EXPECT_FALSE(ParseHostFifo("all", &files).ok());
  EXPECT_TRUE(ParseHostUds("all", &files).ok());
  EXPECT_TRUE(files.connect && files.bind);
  EXPECT_TRUE(ParseHostUds("open", &files).ok());
  EXPECT_TRUE(files.connect && !files.bind);
  EXPECT_TRUE(ParseHostUds("create", &files).ok());
  EXPECT_TRUE(!files.connect && files.bind);
  EXPECT_TRUE(ParseHostUds("none", &files).ok());
  EXPECT_TRUE(!files.connect && !files.bind);
  EXPECT_FALSE(ParseHostUds("", &files).ok());
}

}  // namespace
}  // namespace amber::cli
