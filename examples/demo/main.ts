/**
 * The whole walk in two minutes: a mesh over two private networks behind NATs, a shop placed on it, semantic URLs, and
 * what happens when things die.
 *
 *     npm run demo                     as root: networks out of namespaces; otherwise on loopback
 *     npm run demo -- --json           one JSON object a line, one per step; the last has "ok": true
 *     npm run demo -- --loopback       on loopback, also as root
 *     npm run demo -- --rate 50        50 requests a second while things die, for a small machine
 *     npm run demo -- --no-install     never calls apt-get
 */
import { once } from 'node:events'
import { scriptOptions } from '../../.config/script-options.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { installTools, missingTools } from '../../src/lab/system-tools.ts'
import { loopbackStage, namespaceStage, type Stage } from './stage.ts'
import { Story } from './story.ts'
import { say, teller } from './tell.ts'

const values = scriptOptions({
  name: 'npm run demo',
  about: 'A mesh over two private networks behind NATs, a shop placed on it, and what happens when things die.',
  options: {
    json: { kind: 'flag', meaning: 'prints one JSON object a line, one for each step' },
    loopback: { kind: 'flag', meaning: 'on loopback, also as root' },
    rate: { kind: 'number', default: 200, meaning: 'requests a second while things die' },
    'no-install': { kind: 'flag', meaning: 'never calls apt-get' },
  },
})
const asJson = values.json
const tell = teller(asJson)
const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => abort.abort(new Error(signal)))

const startedAt = performance.now()
try {
  if (!values['no-install']) installTools(missingTools(), tell.progress)
  await using stage = await build()
  await play(stage)
  const seconds = Math.round((performance.now() - startedAt) / 100) / 10
  if (asJson) say(JSON.stringify({ step: 'done', ok: true, seconds, kind: stage.kind }))
} catch (error) {
  process.exitCode = abort.signal.aborted ? 130 : 1
  const { message } = error as Error
  if (asJson) say(JSON.stringify({ step: 'done', ok: false, error: message }))
  else say(abort.signal.aborted ? '\nEverything is cleaned up.' : `\nThe demo failed: ${message}`)
}

async function build(): Promise<Stage> {
  const why = values.loopback ? '--loopback was given' : await lacking()
  const where = why === undefined ? 'two private networks behind NATs' : `loopback, one network (${why})`
  tell.step('mesh', `A mesh: a root, a cluster and four nodes on ${where}`)
  return why === undefined ? namespaceStage(tell.progress, abort.signal) : loopbackStage(tell.progress, abort.signal)
}

async function play(stage: Stage): Promise<void> {
  const story = new Story(stage, tell, { rate: values.rate, signal: abort.signal })
  try {
    await story.nodes()
    await story.submit()
    await story.names()
    await story.roundRobin()
    await story.closest()
    await story.pinned()
    await story.chain()
    await story.across()
    await story.killInstance()
    await story.loseNode()
  } catch (error) {
    if (!asJson && !abort.signal.aborted) for (const line of lastWords(stage)) say(line)
    throw error
  }
  if (asJson) return
  const isAttended = process.stdin.isTTY && process.stdout.isTTY
  say(
    `\nThat was the walk. What to try next${isAttended ? '' : ', when run in a terminal, where the mesh stays up'}:\n`,
  )
  for (const line of story.whatNext()) say(`  ${line}`)
  if (!isAttended) return
  say('\nThe mesh stays up. Ctrl-C ends it and removes everything.')
  if (!abort.signal.aborted) await once(abort.signal, 'abort')
}

/** What the roles logged last, each at most a few lines. */
function lastWords(stage: Stage): string[] {
  return stage.programs.flatMap(({ argv, lines, exit }) => {
    const role = argv[argv.indexOf('--state') + 2] ?? ''
    const log = lines.filter((line) => line.startsWith('{"')).slice(-5)
    return log.length === 0 && exit === undefined
      ? []
      : [`  ${role}${exit === undefined ? '' : ` (${exit})`}:`, ...log.map((line) => `    ${line}`)]
  })
}
