// The calls that are made, and what their arguments are.
#pragma once

#include <sys/syscall.h>

namespace hostile {

// One character for each argument: f a descriptor, d a directory's, p memory, s a path, z a size, i a small number, g flags, t a process or thread, n a
// signal, a memory of mappings, l the length of one, o an offset, m a mode, x anything, 0 zero. Those behind the last are anything.
struct Signature {
  short number;
  const char* kinds;
};

inline constexpr Signature kCalls[] = {
    {0, "fpz"},      {1, "fpz"},      {2, "sgm"},       {3, "f"},        {4, "sp"},      {5, "fp"},       {6, "sp"},       {7, "pii"},
    {8, "foi"},      {9, "alggfo"},   {10, "alg"},      {11, "al"},      {12, "a"},      {13, "nppi"},    {14, "ippi"},    {16, "fgp"},
    {17, "fpzo"},    {18, "fpzo"},    {19, "fpi"},      {20, "fpi"},     {21, "si"},     {22, "p"},       {23, "ipppp"},   {24, ""},
    {25, "allga"},   {26, "alg"},     {27, "alp"},      {28, "ali"},     {29, "izg"},    {30, "iag"},     {31, "iip"},     {32, "f"},
    {33, "ff"},      {35, "pp"},      {36, "ip"},       {37, "0"},       {38, "ipp"},    {39, ""},        {40, "ffpz"},    {41, "igi"},
    {42, "fpi"},     {43, "fpp"},     {44, "fpzgpi"},   {45, "fpzgpp"},  {46, "fpg"},    {47, "fpg"},     {48, "fi"},      {49, "fpi"},
    {50, "fi"},      {51, "fpp"},     {52, "fpp"},      {53, "igip"},    {54, "fiipi"},  {55, "fiipp"},   {56, "gppp0"},   {57, ""},
    {59, "spp"},     {61, "tpgp"},    {62, "tn"},       {63, "p"},       {64, "iig"},    {65, "ipi"},     {66, "iiix"},    {67, "p"},
    {68, "ig"},      {69, "ipzg"},    {70, "ipzig"},    {71, "iip"},     {72, "fix"},    {73, "fi"},      {74, "f"},       {75, "f"},
    {76, "so"},      {77, "fo"},      {78, "fpz"},      {79, "pz"},      {80, "s"},      {81, "f"},       {82, "ss"},      {83, "sm"},
    {84, "s"},       {85, "sm"},      {86, "ss"},       {87, "s"},       {88, "ss"},     {89, "spz"},     {90, "sm"},      {91, "fm"},
    {92, "sii"},     {93, "fii"},     {94, "sii"},      {95, "m"},       {96, "pp"},     {97, "ip"},      {98, "ip"},      {99, "p"},
    {100, "p"},      {101, "gtxp"},   {102, ""},        {103, "ipz"},    {104, ""},      {105, "i"},      {106, "i"},      {107, ""},
    {109, "tt"},     {110, ""},       {111, ""},        {112, ""},       {113, "ii"},    {114, "ii"},     {115, "ip"},     {116, "ip"},
    {117, "iii"},    {118, "ppp"},    {119, "iii"},     {120, "ppp"},    {121, "t"},     {122, "i"},      {123, "i"},      {124, "t"},
    {125, "pp"},     {126, "pp"},     {127, "pi"},      {128, "pppi"},   {129, "tnp"},   {130, "pi"},     {131, "pp"},     {132, "sp"},
    {133, "smx"},    {135, "g"},      {137, "sp"},      {138, "fp"},     {140, "ii"},    {141, "iii"},    {142, "tp"},     {143, "tp"},
    {144, "tip"},    {145, "t"},      {146, "i"},       {147, "i"},      {148, "tp"},    {149, "al"},     {150, "al"},     {151, "g"},
    {152, ""},       {155, "ss"},     {157, "ixxxx"},   {159, "p"},      {160, "ip"},    {161, "s"},      {162, ""},       {163, "s"},
    {164, "pp"},     {165, "sssgp"},  {166, "sg"},      {170, "pz"},     {171, "pz"},    {179, "isip"},   {186, ""},       {187, "foz"},
    {188, "sspzg"},  {189, "sspzg"},  {190, "fspzg"},   {191, "sspz"},   {192, "sspz"},  {193, "fspz"},   {194, "spz"},    {195, "spz"},
    {196, "fpz"},    {197, "ss"},     {198, "ss"},      {199, "fs"},     {200, "tn"},    {201, "p"},      {202, "pgippi"}, {203, "tip"},
    {204, "tip"},    {206, "ip"},     {207, "x"},       {208, "xiipp"},  {209, "xip"},   {210, "xpp"},    {213, "i"},      {216, "alggi"},
    {217, "fpz"},    {218, "p"},      {219, ""},        {220, "ipip"},   {221, "foog"},  {222, "ipp"},    {223, "igpp"},   {224, "ip"},
    {225, "i"},      {226, "i"},      {227, "ip"},      {228, "ip"},     {229, "ip"},    {230, "igpp"},   {232, "fpii"},   {233, "fifp"},
    {234, "ttn"},    {235, "sp"},     {237, "aligpig"}, {238, "ipi"},    {239, "ppiag"}, {240, "sgmp"},   {241, "s"},      {242, "fpzip"},
    {243, "fpzpp"},  {244, "fp"},     {245, "fpp"},     {247, "itpgp"},  {248, "sspzi"}, {249, "sssi"},   {250, "ixxxx"},  {251, "iti"},
    {252, "ti"},     {253, ""},       {254, "fsg"},     {255, "fi"},     {256, "tipp"},  {257, "dsgm"},   {258, "dsm"},    {259, "dsmx"},
    {260, "dsiig"},  {261, "dsp"},    {262, "dspg"},    {263, "dsg"},    {264, "dsds"},  {265, "dsdsg"},  {266, "sds"},    {267, "dspz"},
    {268, "dsm"},    {269, "dsi"},    {270, "ipppp"},   {271, "pippi"},  {272, "g"},     {273, "pz"},     {274, "tpp"},    {275, "fpfpzg"},
    {276, "ffzg"},   {277, "foog"},   {278, "fpig"},    {279, "tipppg"}, {280, "dspg"},  {281, "fpiipi"}, {282, "fpi"},    {283, "ig"},
    {284, "i"},      {285, "fgoo"},   {286, "fgpp"},    {287, "fp"},     {288, "fppg"},  {289, "fpig"},   {290, "ig"},     {291, "g"},
    {292, "ffg"},    {293, "pg"},     {294, "g"},       {295, "fpio"},   {296, "fpio"},  {297, "tnp"},    {298, "pttfg"},  {299, "fpigp"},
    {300, "gg"},     {301, "fggds"},  {302, "tipp"},    {303, "dsppg"},  {304, "fpg"},   {305, "ip"},     {306, "f"},      {307, "fpig"},
    {308, "fg"},     {309, "pp"},     {310, "tpipig"},  {311, "tpipig"}, {312, "ttixx"}, {314, "tpg"},    {315, "tpzg"},   {316, "dsdsg"},
    {317, "igp"},    {318, "pzg"},    {319, "sg"},      {321, "ipz"},    {322, "dsppg"}, {323, "g"},      {324, "igi"},    {325, "alg"},
    {326, "fpfpzg"}, {327, "fpioog"}, {328, "fpioog"},  {329, "algi"},   {330, "gg"},    {331, "i"},      {332, "dsggp"},  {333, "xiipp"},
    {334, "pzgx"},   {424, "fnpg"},   {425, "ip"},      {426, "fiigpz"}, {427, "fipi"},  {428, "dsg"},    {429, "dsdsg"},  {430, "sg"},
    {431, "figsi"},  {432, "fgg"},    {433, "dsg"},     {434, "tg"},     {435, "pz"},    {436, "ffg"},    {437, "dspz"},   {438, "ffg"},
    {439, "dsig"},   {440, "fpiig"},  {441, "fpipi"},   {442, "dsgpz"},  {443, "fisp"},  {444, "pzg"},    {445, "fipg"},   {446, "fg"},
    {447, "g"},      {448, "fg"},     {449, "pigpi"},   {450, "alig"},   {451, "fppg"},  {452, "dsmg"},   {454, "pxig"},   {455, "pxgpi"},
    {456, "pgii"},   {457, "ppzg"},   {458, "ppzg"},    {459, "ippg"},   {462, "alg"},   {463, "dsgpzp"}, {464, "dsgpzp"}, {465, "dsgpp"},
    {466, "dsgpz"},  {467, "dsgpz"},  {468, "dspzg"},   {469, "dspzg"},  {470, "xxx"},   {500, "xxxxxx"}, {-1, "xxxxxx"},
};

}  // namespace hostile
