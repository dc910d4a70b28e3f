import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { lackingFor } from '../../src/lab/missing-rights.ts'
import { run } from '../../src/lab/program.ts'
import { blocksOf, page, ROOT } from './markdown.ts'
import '../support/no-orphans.ts'
import { LAUNCHER } from '../support/launcher.ts'

/*
 * docs/operations.md is typed from its first command to its last, as it stands: on a server and on a node, each with files of
 * its own (mount namespaces), in one network and process namespace. No systemd runs there: in its place is the script below,
 * which runs ExecStart of the unit files that were installed, with their environment, and waits until the role is ready.
 * `hedgerow` is this clone's, found by PATH.
 */

t.setTimeout(280_000)
const skip = (await lackingFor('namespaces')) ?? false
const blocks = blocksOf(page('docs/operations.md')).filter(({ syntax }) => syntax === 'sh')

const SYSTEMCTL = `#!/bin/bash
set -eu
verb=$1; shift
now=; unit=
for word in "$@"; do case $word in --now) now=1;; --*) ;; *) unit=$word;; esac; done
[ $verb = daemon-reload ] && exit 0
role=\${unit#hedgerow-}
file=/etc/systemd/system/$unit.service
log=/run/$unit.log
pids() { for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2> /dev/null | grep -q "hedgerow.js $role --config" && echo \${p#/proc/}; done; true; }
start() {
  [ -f $file ] || { echo "$unit: no such unit" >&2; exit 5; }
  install -d -m 0755 /var/lib/hedgerow
  set -a; eval "$(sed -n 's/^Environment=//p' $file)"
  env=$(sed -n 's/^EnvironmentFile=-//p' $file); [ -f "$env" ] && . "$env"; set +a
  : > $log
  setsid $(sed -n 's#^ExecStart=/usr/bin/##p' $file) > $log 2>&1 < /dev/null &
  for i in $(seq 300); do grep -q '^HEDGEROW  *READY' $log && return; sleep 0.1; done
  cat $log >&2; exit 1
}
stop() { for p in $(pids); do kill $p 2> /dev/null || true; done; for i in $(seq 300); do [ -z "$(pids)" ] && return; sleep 0.1; done; exit 1; }
case $verb in
  enable) [ -z "$now" ] || start;;
  disable) [ -z "$now" ] || stop;;
  start) start;;
  stop) stop;;
  restart) stop; start;;
  kill) for p in $(grep -lz '^HEDGEROW_INSTANCE=' /proc/[0-9]*/environ 2> /dev/null | cut -d/ -f3); do kill -9 $p 2> /dev/null || true; done;;
  *) echo "systemctl $verb is not known here" >&2; exit 1;;
esac
`

/**
 * Files that the commands change are copies; the rest of the machine is as it is. Each command stands alone: `set -e` does not see one that
 * fails before `&&`, and then the machine's own files would be changed. Other tests make and remove /etc/netns meanwhile.
 */
const OWN_FILES = `
mount -t tmpfs own /mnt
find /etc -mindepth 1 -maxdepth 1 ! -name netns -exec cp -a -t /mnt {} +
mount --move /mnt /etc
mkdir -p /etc/systemd/system
mkdir -p /var/backups
for folder in /var/lib /var/backups /run; do mount -t tmpfs own $folder; done
`

/** Server and node are shells that read commands from files, so that each keeps its own mounts. */
function scriptOf(folder: string): string {
  const of = (section: string, at: number) => {
    const found = blocks.filter((block) => block.section === section)[at]
    if (found === undefined) throw new Error(`no block ${at} in ${section}`)
    return found.text
  }
  const steps = [
    ['node', 'has', of('Install', 0)],
    ['server', 'has', of('Install', 0) + of('Install', 1)],
    ['node', 'joins', of('Install', 2), 'token'],
    ['server', 'deploys', `${of('Install', 3)}${waitFor('running', 2)}${of('Install', 4)}`],
    ['node', 'note', `pgrep -f 'hello from' | sort > ${folder}/before; [ $(wc -l < ${folder}/before) = 2 ]`],
    ['server', 'upgrade', of('Upgrade', 0)],
    ['node', 'upgrade', `${of('Upgrade', 1)}pgrep -f 'hello from' | sort | diff ${folder}/before -`],
    ['server', 'backup', `${of('Back up and restore', 0)}${retried('hedgerow delete app hello.demo')}`],
    ['server', 'restore', `${of('Back up and restore', 1)}${waitFor('running', 2)}`],
    ['server', 'rotate', `${of('Replace the certificate authority', 0)}${ROTATED}`],
    [
      'server',
      'retire',
      `${of('Replace the certificate authority', 1)}${waitFor('running', 2)}${retried('hedgerow check')}`,
    ],
    ['server', 'new mesh', `${of('Set up a new mesh', 0)}${refused('hedgerow get apps | grep hello')}`],
    ['node', 'new mesh', of('Set up a new mesh', 1), 'token'],
    ['server', 'deploys again', `${retried('hedgerow apply -f examples/hello.yaml')}${waitFor('running', 2)}`],
    ['server', 'delete', of('Uninstall', 0)],
    [
      'node',
      'uninstall',
      `${of('Uninstall', 1)}${refused("pgrep -f 'hello from'")}${refused('test -e /etc/hedgerow')}${refused('id hedgerow')}`,
    ],
    ['server', 'end', 'systemctl stop hedgerow-cluster; systemctl stop hedgerow-root'],
  ] as const
  const text = steps.map(([who, what, commands, token], at) => {
    const file = join(folder, `${at}.sh`)
    const given = token === undefined ? '' : `TOKEN=$(cat ${folder}/token)\n`
    writeFileSync(file, `set -eu\ncd ${ROOT}\n${given}${commands}\n`)
    const ahead = token === undefined ? '' : `$SERVER bash -c 'hedgerow token create' > ${folder}/token\n`
    return `${ahead}echo "STEP ${at} ${who}: ${what}"\n$${who.toUpperCase()} bash ${file}`
  })
  const used = ['Install', 'Upgrade', 'Back up and restore']
  used.push('Replace the certificate authority', 'Set up a new mesh', 'Uninstall')
  t.same(new Set(blocks.map(({ section }) => section)), new Set(used), 'every section with commands is typed')
  t.equal(blocks.length, 15, 'and each of its blocks')
  return `set -eu
mount --make-rprivate /
ip link set lo up
ip address add 203.0.113.10/32 dev lo
unshare -m sleep 600 & server=$!
unshare -m sleep 600 & node=$!
for each in $server $node; do
  while [ "$(readlink /proc/$each/ns/mnt)" = "$(readlink /proc/$$/ns/mnt)" ]; do sleep 0.05; done
done
SERVER="nsenter -m -t $server"
NODE="nsenter -m -t $node"
for each in "$SERVER" "$NODE"; do $each bash -euc '${OWN_FILES}'; done
${text.join('\n')}
echo DONE
`
}

/** Nobody is behind, and the new authority signs. */
const ROTATED = `for i in $(seq 300); do hedgerow ca status > /run/ca; grep -q 'step *issuing' /run/ca && grep -q 'behind *0' /run/ca && break; sleep 0.2; done
grep -q 'behind *0' /run/ca || { cat /run/ca; exit 1; }\n`

/** Once is enough: what was restored may count for a moment, until its node has reported. */
function waitFor(state: string, count: number): string {
  const wanted = `[ "$(hedgerow get instances | grep -c ${state})" = ${count} ]`
  return `for i in $(seq 200); do ${wanted} && break; [ $i -lt 200 ] || { hedgerow get instances; exit 1; }; sleep 0.2; done\n`
}

/** A cluster that has just started may not be back at the root yet. */
function retried(command: string): string {
  return `for i in $(seq 50); do ${command} && break; [ $i -lt 50 ]; sleep 0.2; done\n`
}

/** `!` alone would not end the script. */
function refused(command: string): string {
  return `if ${command}; then echo 'it should fail: ${command.replaceAll("'", '')}'; exit 1; fi\n`
}

t.test(
  'install, upgrade, backup, restore, a new authority, a new mesh and removal go as the page says',
  { skip },
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'hedgerow-operations-'))
    t.teardown(() => rm(folder, { recursive: true, force: true }))
    const bin = join(folder, 'bin')
    mkdirSync(bin)
    const launcher = `#!/bin/sh\nexec ${process.execPath} ${LAUNCHER} "$@"\n`
    for (const [name, text] of [
      ['hedgerow', launcher],
      ['systemctl', SYSTEMCTL],
    ] as const) {
      writeFileSync(join(bin, name), text)
      chmodSync(join(bin, name), 0o755)
    }
    const PATH = [bin, dirname(process.execPath), process.env['PATH'], '/usr/sbin', '/sbin'].join(':')
    const clean = { HEDGEROW_STATE: undefined, HEDGEROW_TOKEN: undefined, HEDGEROW_CREDENTIAL: undefined }
    const argv = ['unshare', '-nmpf', '--mount-proc', '--kill-child', 'bash', '-c', scriptOf(folder)]
    const { code, stdout, stderr } = await run(argv, { env: { ...clean, PATH }, timeoutMs: 160_000 })
    t.equal(code, 0, 'every command succeeds')
    t.match(stdout, /^DONE$/m, 'and the last one is reached')
    if (code !== 0) t.comment(stdout.slice(-4_000), stderr.slice(-4_000))
  },
)
