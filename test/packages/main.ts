/**
 * Tries the packages as a stranger would, in a clean Debian without Node: what they hold, how soon they start, and that nothing of them is
 * left after their removal.
 *
 *     npm run prove:packages                        as root, on Debian or Ubuntu; makes the packages first (a minute)
 *     npm run prove:packages -- --suite trixie      another release; noble is Ubuntu 24.04
 *     npm run prove:packages -- --packages FOLDER   packages that were made already
 *     npm run prove:packages -- --quick             what `npm test` runs of it: the Debian package, two sites, the removal
 *
 *     debootstrap --variant=minbase ─▶ dpkg -i ─▶ up ─▶ apply ─▶ a call by name ─▶ backup, kill -9, restore ─▶ two sites ─▶ dpkg --purge
 *
 * The last line counts what passed.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { scriptOptions } from '../../.config/script-options.ts'
import { lab } from '../../src/lab/lab.ts'
import { makeCleanDebian, must } from '../support/clean-debian.ts'

const REPOSITORY = resolve(import.meta.dirname, '../..')
const MOST_BYTES = 60_000_000
/** Of processor time: on a machine with other work, time by the clock says little. */
const MOST_START_MS = 1_500
/** Of the first contact: what is typed on both machines until one calls the other, and how long the machines need for it. */
const FIRST_CONTACT = [
  'dpkg -i (server)',
  'hedgerow up --public-host',
  'hedgerow token create',
  'dpkg -i (node)',
  'hedgerow agent --token-file',
] as const
const MOST_COMMANDS = 5
const MOST_FIRST_CONTACT_MS = 60_000
const NAME = 'hello.demo.greeter.demo.any.rr.local'

const values = scriptOptions({
  name: 'npm run prove:packages',
  about: 'Tries the packages in a clean Debian without Node; as root, on Debian or Ubuntu.',
  options: {
    suite: { kind: 'text', default: 'bookworm', meaning: 'the release of Debian, or of Ubuntu: jammy, noble' },
    packages: { kind: 'text', meaning: 'a folder with packages, instead of new ones' },
    quick: { kind: 'flag', meaning: 'the Debian package alone, hardly compressed: two sites and its removal' },
    keep: { kind: 'flag', meaning: 'keeps the folder for a look' },
  },
})
if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) {
  console.log('prove:packages needs root on Debian or Ubuntu')
  process.exit(1)
}

/** Every file but those that change by themselves. */
const FILES =
  'find / -xdev -not -path "/proc/*" -not -path "/root/*" -not -path "/var/lib/dpkg/*" -not -path "/var/log/*" -not -path "/var/cache/*" -not -path "/run/*" -not -path "/etc/*-" -not -path "/etc/.pwd.lock" | sort'

const CONFIGURATIONS = `for role in root cluster relay agent; do
  hedgerow --state /root/none $role --config /etc/hedgerow/$role.yaml --log-level silent > /root/out 2>&1 & pid=$!
  for i in $(seq 100); do grep -qE 'READY|error:' /root/out && break; sleep 0.1; done
  if grep -i configuration /root/out; then exit 1; fi
  kill $pid 2> /dev/null || true; wait $pid || true
done
rm -rf /root/none`

/** Waits until a role serves, on a machine that has other work too; else the step ends, with what it has said. */
const STARTED = `started() { for i in $(seq 600); do grep -qs READY $1 && return; sleep 0.1; done; cat $1; exit 1; }`

/** Bash itself calls: nothing else is there. The time is from the command to the first answer by name. */
const MESH = `call() { exec 3<> /dev/tcp/$1/8080 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3 | grep 'hello from'; }
ready() { for i in $(seq 200); do [ "$(hedgerow get instances | grep -c running)" = 2 ] && return; sleep 0.1; done; hedgerow get instances; exit 1; }
start() { : > /root/up.log; hedgerow up --name n0 --log-level error > /root/up.log 2>&1 & up=$!; started /root/up.log; }
began=$(date +%s%N)
start
echo "ready after $(( ($(date +%s%N) - began) / 1000000 )) ms"
hedgerow resolve ${NAME} > /dev/null 2>&1 || true
hedgerow apply -f /usr/share/doc/hedgerow/examples/hello.yaml
ready
echo "first call possible after $(( ($(date +%s%N) - began) / 1000000 )) ms"
vip=$(hedgerow resolve ${NAME} -o json | sed -n 's/.*"ipv4": "\\(.*\\)".*/\\1/p')
call $vip
hedgerow backup /root/backup.tgz
hedgerow delete app hello.demo
kill -9 $up; wait $up || true
rm -rf /var/lib/hedgerow
hedgerow restore /root/backup.tgz
start
ready
call $vip
hedgerow bug-report /root/report.tgz
kill $up; wait $up
rm /root/*.tgz`

/** An agent that has joined starts again; a DNS question is sent until it is answered. Bash sends it, since `hedgerow resolve` is a start itself. */
const START_AGAIN = `kill $agent; wait $agent || true
answers() { exec 4<> /dev/udp/$1/53 && printf '\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\5hello\\4demo\\7greeter\\4demo\\3any\\2rr\\5local\\0\\0\\1\\0\\1' >&4 && timeout 0.05 head -c 8 <&4 | od -An -tu1 | grep -q ' 1$'; }
resolver=$(sed -n 's/^resolver *\\([0-9.]*\\):53$/\\1/p' /root/n1.log)
began=$(date +%s%N)
hedgerow agent --name n1 --log-level error > /root/n1.log 2>&1 & agent=$!
for i in $(seq 600); do (answers $resolver) 2> /dev/null && break; sleep 0.01; done
(answers $resolver) || { cat /root/n1.log; exit 1; }
used=$(( ($(cut -d' ' -f14 /proc/$agent/stat) + $(cut -d' ' -f15 /proc/$agent/stat)) * 10 ))
echo "an agent that starts again answers a name after $(( ($(date +%s%N) - began) / 1000000 )) ms; it used $used ms of a processor"
[ $used -le ${MOST_START_MS} ]`

/** The page with the map, as a browser loads it, its program too. There is no curl. */
const PAGE = `NODE_TLS_REJECT_UNAUTHORIZED=0 NODE_NO_WARNINGS=1 /usr/lib/hedgerow/node -e "
  const at = 'https://127.0.0.1:7470/'
  const get = async (path) => { const answer = await fetch(at + path); if (!answer.ok) throw new Error(path + ': ' + answer.status); return answer.text() }
  get('').then((page) => get(/app-\\w+\\.js/.exec(page)[0].replace(/^/, 'ui/'))).then((program) => console.log('the page is there, ' + program.length + ' characters of program'))"`

/** What the README says of several machines: a server, and a node behind a NAT that calls an instance there. They share the folder /root. */
const SITES = {
  server: `export HEDGEROW_STATE=/root/state-server
date +%s%N > /root/began
hedgerow up --name server --public-host 203.0.113.10 --log-level error > /root/up.log 2>&1 & up=$!
started /root/up.log
hedgerow token create > /root/token.new && mv /root/token.new /root/n1.token
for i in $(seq 400); do [ -e /root/joined ] && break; sleep 0.05; done
hedgerow apply -f /usr/share/doc/hedgerow/examples/hello.yaml
${PAGE}
for i in $(seq 600); do [ -e /root/called ] && break; sleep 0.1; done
hedgerow get instances
kill $up; wait $up
[ -e /root/called ]`,
  n1: `export HEDGEROW_STATE=/root/state-n1
for i in $(seq 400); do [ -e /root/n1.token ] && break; sleep 0.05; done
hedgerow agent --name n1 --token-file /root/n1.token --log-level error > /root/n1.log 2>&1 & agent=$!
started /root/n1.log
touch /root/joined
call() { exec 3<> /dev/tcp/$1/8080 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3 | grep 'on edge/server'; }
answered() { for i in $(seq 200); do vip=$(hedgerow resolve ${NAME} -o json | sed -n 's/.*"ipv4": "\\(.*\\)".*/\\1/p'); [ -n "$vip" ] && (call $vip) 2> /dev/null && return; sleep 0.1; done; exit 1; }
answered
echo "$(( ($(date +%s%N) - $(cat /root/began)) / 1000000 )) ms from the first command to this answer, without the installation"
hedgerow peers
${values.quick ? '' : START_AGAIN}
touch /root/called
kill $agent; wait $agent`,
}

const REMOVE = `mkdir -p /var/lib/hedgerow
echo kept > /var/lib/hedgerow/kept
dpkg -r hedgerow
[ -e /var/lib/hedgerow/kept ] && [ -e /etc/hedgerow/root.yaml ] && [ ! -e /usr/bin/hedgerow ]
dpkg --purge hedgerow
if id hedgerow; then exit 1; fi
${FILES} > /root/after
diff /root/before /root/after`

/** In memory nothing waits for a disk. */
const folder = mkdtempSync(join(values.quick && existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'hedgerow-packages-'))
const root = join(folder, 'root')
const packages = values.packages ?? join(folder, 'packages')
const results: { label: string; ok: boolean }[] = []
try {
  if (values.packages === undefined)
    must([
      process.execPath,
      join(REPOSITORY, '.config/package.ts'),
      '--out',
      packages,
      ...(values.quick ? ['--fast'] : []),
    ])
  const file = (pattern: RegExp) => readdirSync(packages).find((name) => pattern.test(name)) ?? ''
  const debArch = process.arch === 'x64' ? 'amd64' : 'arm64'
  const deb = file(new RegExp(`_${debArch}\\.deb$`))
  const archive = file(new RegExp(`linux-${process.arch}\\.tar\\.gz$`))
  for (const name of readdirSync(packages).filter((one) => /\.(deb|tar\.gz)$/.test(one))) {
    const { size } = statSync(join(packages, name))
    results.push({ label: `${name}: ${(size / 1_000_000).toFixed(1)} MB`, ok: values.quick || size <= MOST_BYTES })
  }
  makeCleanDebian({ root, suite: values.suite, packages: values.quick ? [] : ['ca-certificates'] })
  for (const name of [deb, archive]) copyFileSync(join(packages, name), join(root, 'root', name))
  attempt('there is no Node', 'if command -v node || command -v npm; then exit 1; fi')
  if (!values.quick) attempt('the archive is unpacked and runs', archiveSteps(archive))
  attempt('the files before', `${FILES} > /root/before`)
  const installMs = attempt('the Debian package is installed', `dpkg -i /root/${deb}`)
  attempt(
    'what it needs is there',
    'if ldd /usr/lib/hedgerow/node | grep "not found"; then exit 1; fi; dpkg -s hedgerow | grep "ok installed"',
  )
  attempt('hedgerow version', 'hedgerow version')
  if (!values.quick) attempt('each role reads the configuration that comes with it', CONFIGURATIONS)
  attempt(
    'the units name what is there',
    'for unit in /usr/lib/systemd/system/hedgerow-*.service; do $(sed -n "s#^ExecStart=\\(/[^ ]*\\).*#\\1#p" $unit) version; done; id hedgerow',
  )
  if (!values.quick) attempt('up, apply, a call by name, backup, kill, restore', MESH)
  const sitesMs = await twoSites()
  results.push({
    label: `first contact: ${FIRST_CONTACT.length} commands (${FIRST_CONTACT.join(', ')}), ${((2 * installMs + sitesMs) / 1_000).toFixed(1)} s with both installations`,
    ok: FIRST_CONTACT.length <= MOST_COMMANDS && (values.quick || 2 * installMs + sitesMs <= MOST_FIRST_CONTACT_MS),
  })
  attempt('removed, its state stays; purged, nothing does', REMOVE)
} finally {
  if (values.keep) console.log(`kept: ${root}`)
  else rmSync(folder, { recursive: true, force: true })
}
const failed = results.filter(({ ok }) => !ok)
for (const { label, ok } of results) console.log(`${ok ? 'ok     ' : 'NOT OK '} ${label}`)
console.log(`${results.length - failed.length} passed, ${failed.length} failed`)
process.exitCode = failed.length === 0 && results.length > 0 ? 0 : 1

/** Namespaces of its own for processes, mounts and network. Gives the time that it took, in ms. */
function attempt(label: string, commands: string): number {
  const argv = ['--net', ...inside('step', commands)]
  const startedAt = performance.now()
  const { status, stdout, stderr } = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 180_000 })
  report(label, startedAt, { code: status, stdout, stderr })
  return performance.now() - startedAt
}

/** The arguments of unshare that run the commands in the clean root. */
function inside(name: string, commands: string): string[] {
  const script = `/root/${name}.sh`
  writeFileSync(
    join(root, script),
    `set -eu\n${STARTED}\nexport HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin\n${commands}\n`,
  )
  const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  const enter = `ip link set lo up; mount --bind ${root} ${root}; mount -t proc proc ${root}/proc; mount --rbind /dev ${root}/dev; mount -t tmpfs tmpfs ${root}/run; exec chroot ${root} env -i TERM=dumb HOME=/root ${path} bash ${script}`
  return ['--mount', '--pid', '--fork', '--kill-child', 'bash', '-ec', enter]
}

/** A server and a node behind a NAT, on networks of their own. Gives the time from the first command to the first answer, in ms. */
async function twoSites(): Promise<number> {
  const startedAt = performance.now()
  await using net = await lab({ publics: ['server'], sites: { home: { hosts: ['n1'] } } })
  const sides = Object.entries(SITES).map(([name, commands]) =>
    net.host(name).exec(['unshare', ...inside(name, commands)], { timeoutMs: 120_000 }),
  )
  const [server, n1] = await Promise.all(sides)
  for (const name of Object.keys(SITES)) rmSync(join(root, `root/state-${name}`), { recursive: true, force: true })
  const isWell = server?.code === 0 && n1?.code === 0
  report('two sites: up, token, agent, apply, a call across the NAT', startedAt, {
    code: isWell ? 0 : 1,
    stdout: `${server?.stdout ?? ''}${n1?.stdout ?? ''}`,
    stderr: `${server?.stderr ?? ''}${n1?.stderr ?? ''}`,
  })
  return Number(/^(\d+) ms from the first command/m.exec(n1?.stdout ?? '')?.[1] ?? Infinity)
}

interface Outcome {
  code: number | null
  stdout: string
  stderr: string
}

function report(label: string, startedAt: number, { code, stdout, stderr }: Outcome): void {
  const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1)
  results.push({ label: `${label}   ${seconds} s`, ok: code === 0 })
  console.log(`\n▶ ${label}\n${stdout}${code === 0 ? '' : stderr}`)
}

function archiveSteps(archive: string): string {
  return `mkdir -p /opt /usr/local/bin
tar -xzf /root/${archive} -C /opt
ln -s /opt/hedgerow-*/bin/hedgerow /usr/local/bin/hedgerow
/usr/local/bin/hedgerow version
/usr/local/bin/hedgerow --state /root/x up --log-level error > /root/up.log 2>&1 & up=$!
started /root/up.log
/usr/local/bin/hedgerow --state /root/x check --mesh
cp -a /opt/hedgerow-* /opt/next
ln -sfn /opt/next/bin/hedgerow /usr/local/bin/hedgerow
/usr/local/bin/hedgerow --state /root/x restart > /root/restarted
cat /root/restarted
wait $up
next=$(sed -n 's/^pid *//p' /root/restarted)
[ "$(readlink /proc/$next/exe)" = /opt/next/lib/hedgerow/node ]
kill $next; while [ -e /proc/$next ]; do sleep 0.1; done
rm -rf /opt/next /opt/hedgerow-* /root/restarted /usr/local/bin/hedgerow /root/x`
}
