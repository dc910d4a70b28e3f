import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { duplexPair, PassThrough } from 'node:stream'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { handOver, type PredecessorFacts } from '../../src/agent/hand-over.ts'
import { askAgent } from '../../src/agent/local-api.ts'
import { parseConfig } from '../../src/config/file.ts'
import { readBytes } from '../../src/core/kit/read-bytes.ts'
import { Records } from '../../src/orchestrator/worker/records.ts'
import { assignmentOf } from '../orchestrator/specs.ts'
import { recordingLog } from '../resolver/world.ts'

/** Whatever answers, or was left behind, the asker gets an error that says so: it neither crashes nor waits for ever. */

const answerOf = (status: number, body: string, length = body.length) =>
  `HTTP/1.1 ${status} X\r\ncontent-length: ${length}\r\n\r\n${body}`

for (const { why, answer, code } of [
  { why: 'no JSON', answer: answerOf(200, '<html'), code: 'REQUEST_FAILED' },
  { why: 'null', answer: answerOf(200, 'null'), code: 'REQUEST_FAILED' },
  { why: 'a refusal that is none', answer: answerOf(400, '{"error":"toString"}'), code: 'REQUEST_FAILED' },
  { why: 'a refusal without details', answer: answerOf(400, '{"error":"NAME_INVALID"}'), code: 'NAME_INVALID' },
  { why: 'half of an answer, then nothing', answer: answerOf(200, '{"standing":', 500), code: 'NOT_RUNNING' },
  { why: 'nothing at all', answer: '', code: 'NOT_RUNNING' },
]) {
  t.test(`a command whose agent answers ${why} says so`, async (t) => {
    const path = await answering(t, answer)
    await t.rejects(askAgent(path, '/status'), { code }, `the command ends with ${code}`)
  })
}

async function answering(t: Test, answer: string): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-')) // the path of a socket must be short
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const path = join(dir, 'a.sock')
  const server = createServer((socket: Socket) => {
    socket.on('error', () => socket.destroy())
    socket.once('data', () => socket.write(answer, () => socket.destroySoon()))
  })
  server.listen(path)
  await once(server, 'listening')
  t.teardown(() => server.close())
  return path
}

for (const line of ['garbage', 'null', '{"step":']) {
  t.test(`a successor that says ${line} counts as lost: the predecessor takes everything back`, async (t) => {
    const [ours, theirs] = duplexPair()
    const calls: string[] = []
    const step = (name: string) => async () => void calls.push(name)
    const done = handOver(ours as unknown as Socket, {
      facts: () => ({}) as PredecessorFacts,
      control: step('control'),
      release: step('release'),
      yield: step('yield'),
      reclaim: step('reclaim'),
    })
    theirs.resume().write(`{"step":"release"}\n${line}\n`)
    t.equal(await done, false, 'the hand-over was not completed')
    t.same(calls, ['release', 'reclaim'], 'what was released is taken back')
    t.ok(ours.destroyed, 'the successor is told by the end of the connection')
  })
}

t.test(
  'records of instances that lack what is needed to take one over are left alone, and the others are read',
  async (t) => {
    const dir = join(t.testdir(), 'run')
    mkdirSync(dir)
    const good = { format: 1, assignment: assignmentOf(), state: 'running', restarts: 0, endpoints: {} }
    const damaged = {
      cut: JSON.stringify(good).slice(0, 40),
      empty: '',
      null: 'null',
      none: JSON.stringify({ format: 1 }),
      later: JSON.stringify({ ...good, format: 2 }),
      nameless: JSON.stringify({ ...good, assignment: { ...good.assignment, instance: undefined } }),
      stateless: JSON.stringify({ ...good, state: 'asleep' }),
    }
    for (const [name, text] of Object.entries({ ...damaged, good: JSON.stringify(good) }))
      writeFileSync(join(dir, `${name}.json`), text)
    const log = recordingLog()
    const read = await new Records(dir, log).all()
    t.same(
      read.map(({ saved }) => saved.assignment.instance),
      [good.assignment.instance],
      'only the whole record is read',
    )
    const named = log.lines.filter(({ sentence }) => sentence === 'instance record ignored: it cannot be read')
    t.equal(named.length, Object.keys(damaged).length, 'the log names each damaged record')
  },
)

t.test('a configuration whose alias cannot be followed is refused with its file', (t) => {
  for (const text of ['agent: { labels: *none }', `a: &a [1]\nb: [${'*a,'.repeat(50)}]`])
    t.throws(
      () => parseConfig(text, 'hedgerow.yaml'),
      { code: 'CONFIG_INVALID', details: { path: 'hedgerow.yaml' } },
      text,
    )
  t.end()
})

t.test('no bytes are read at once, from a stream that has none yet', async (t) => {
  t.equal((await readBytes(new PassThrough(), 0))?.length, 0, 'the reader does not wait')
})
