// The least that exec can start.
int main() { return 0; }
