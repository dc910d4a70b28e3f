#!/usr/bin/env -S node --max-semi-space-size=2 --single-threaded-gc
// A small young generation: what a flow or a request leaves behind is dead at once, so larger ones save little and pause longer
// (measured under 64 requests at a time: 0.5 ms a pause with 2 MiB; under new flows 3 ms with 2 MiB, 7 with 8, 30 with 16, for
// 60, 32 and 86 µs of collecting a flow) and cost up to 60 MiB. On one thread: helper threads take the cores from the flows.
// The launcher. Plain JavaScript that an old Node can parse, so that it can say what is wrong instead of failing on
// the first line it does not know. Everything else starts in main.
import { existsSync, mkdirSync, statSync } from 'node:fs'
import module from 'node:module'
import { fileURLToPath } from 'node:url'
import v8 from 'node:v8'

const NEEDED = [24, 19]

/**
 * As process 1 of a container somebody must reap orphans, which the instances of an agent leave behind, and stay while the
 * agent is replaced (`hedgerow restart`). Node does neither, so a shell becomes process 1: it starts this program, passes
 * signals on, follows a successor (it has --take-over among its arguments), and ends with the program's exit code.
 */
const INIT = `
successor() {
  for dir in /proc/[0-9]*; do
    case "$(tr '\\0' ' ' < $dir/cmdline 2>/dev/null)" in sh\\ -c*) continue ;; *hedgerow.js*--take-over*) ;; *) continue ;; esac
    while read -r key value rest; do
      if [ "$key" = PPid: ] && { [ "$value" = 1 ] || [ "$value" = "$child" ]; }; then echo "\${dir#/proc/}"; return; fi
    done < $dir/status
  done
}
stopping=
forward() {
  case $1 in TERM|INT|QUIT) stopping=1 ;; esac
  kill -"$1" $child $(successor) 2>/dev/null
}
exec 3<&0
"$@" <&3 3<&- &
child=$!
exec 3<&-
for signal in HUP INT QUIT TERM USR1 USR2; do trap "forward $signal" $signal; done
while wait $child; code=$?; kill -0 $child 2>/dev/null; do :; done
next=$(successor)
[ -n "$next" ] || exit $code
while [ -n "$next" ]; do
  child=$next
  while kill -0 $child 2>/dev/null; do sleep 1 & wait $!; done
  next=$(successor)
done
[ -n "$stopping" ]
`

/**
 * The control plane has no flows to leave its cores to, and tens of MiB that live: to mark and move them on one thread stopped the links of
 * all nodes for 0.15 s. Other threads mark, and so large a young generation keeps what a message leaves behind out of the old one.
 */
const CONTROL_FLAGS = ['--max-semi-space-size=8', '--no-parallel-scavenge']
const DEFAULT_FLAGS = ['--max-semi-space-size=2', '--single-threaded-gc']
/** The options before a command whose value is the next word. */
const VALUED = ['--state', '--credential', '--output', '-o']
const command = process.argv.find(
  (word, at, words) => at > 1 && !word.startsWith('-') && !VALUED.includes(words[at - 1]),
)
const isControl = command === 'root' || command === 'cluster'
const otherFlags = process.execArgv.filter((flag) => !DEFAULT_FLAGS.includes(flag))

const version = process.versions.node.split('.').map(Number)
const isOld = version[0] < NEEDED[0] || (version[0] === NEEDED[0] && version[1] < NEEDED[1])

if (isOld) {
  const isClone = existsSync(fileURLToPath(new URL('./main.ts', import.meta.url)))
  process.stderr.write(
    `hedgerow needs Node ${NEEDED.join('.')} or newer; this is Node ${process.versions.node} (${process.execPath}).\n` +
      (isClone
        ? 'In this clone, `npm run hedgerow -- …` uses the Node 24 that `npm ci` brought along.\n'
        : `Run it with \`npx --package node-${process.platform}-${process.arch}@24 --package hedgerow -- hedgerow …\`, or get Node 24 from https://nodejs.org.\n`),
  )
  process.exitCode = 1
} else if (process.pid === 1 && existsSync('/bin/sh')) {
  // execve is young, and says so
  process.removeAllListeners('warning')
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  process.execve('/bin/sh', ['sh', '-c', INIT, 'init', ...again])
} else if (
  isControl &&
  process.execve !== undefined &&
  process.execArgv.length - otherFlags.length === DEFAULT_FLAGS.length
) {
  process.removeAllListeners('warning')
  process.execve(process.execPath, [process.argv0, ...CONTROL_FLAGS, ...otherFlags, ...process.argv.slice(1)])
} else {
  // Loading leaves 25 MiB of code that runs once behind, which is never given back: compiled for size it does not. A role that
  // runs switches to speed (cli/run.ts).
  v8.setFlagsFromString('--optimize-for-size')
  const built = fileURLToPath(new URL('./main.js', import.meta.url))
  const isBuilt = existsSync(built)
  // What was compiled once is kept for the next start, of this and of every other command: each takes half the processor time.
  const cache = cacheFolder(isBuilt)
  if (cache !== undefined) module.enableCompileCache(cache)
  // A failure to load is printed, and ends the program, by Node itself.
  void import(isBuilt ? './main.js' : './main.ts')
}

/** Where compiled code is kept. V8 runs it as it lies there, so nobody else may write it. */
function cacheFolder(isBuilt) {
  if (!isBuilt) return fileURLToPath(new URL('../node_modules/.cache/hedgerow', import.meta.url))
  const uid = process.getuid?.()
  const { XDG_CACHE_HOME, HOME } = process.env
  const folder = uid === 0 ? '/var/cache' : XDG_CACHE_HOME || (HOME && `${HOME}/.cache`)
  if (!folder) return undefined
  try {
    // not a home that is not there; and a recursive mkdir in /proc never ends
    for (const path of [folder, `${folder}/hedgerow`]) if (!existsSync(path)) mkdirSync(path, { mode: 0o700 })
    const own = statSync(`${folder}/hedgerow`)
    return own.uid === uid && (own.mode & 0o022) === 0 ? `${folder}/hedgerow` : undefined
  } catch {
    return undefined // a file system that cannot be written, say
  }
}
