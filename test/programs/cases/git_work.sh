# timeout: 120
# git: init, commit, branch, merge, log, diff, clone, gc, fsck.
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1
git init -q -b trunk repo; cd repo || exit 1
for i in $(seq 20); do echo "content $i" > "file$i"; mkdir -p "d$((i % 3))"; seq "$i" > "d$((i % 3))/n$i"; git add -A; git commit -q -m "commit $i"; done
git log --oneline | wc -l; git rev-parse HEAD; git checkout -q -b side HEAD~5; echo side > side; git add side; git commit -q -m side
git checkout -q trunk; git merge -q -m merge side; git log --oneline --graph | head -4; git status --short | wc -l
echo changed >> file3; git diff --stat; git stash -q; git status --short | wc -l; git stash pop -q; git checkout -q file3
git gc -q; git count-objects -v | grep -E '^(count|packs)'; git fsck 2>&1 | tail -1; cd ..; git clone -q repo copy; git -C copy log --oneline | wc -l
git -C copy archive HEAD | tar t | wc -l; git -C copy blame -s file7 | cut -c1-8; git -C repo worktree add -q ../tree HEAD~2 2>/dev/null; ls tree | wc -l
