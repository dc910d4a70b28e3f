import t from 'tap'
import { followAll, type LogsAsked, printPast } from '../../src/cli/service-logs.ts'
import { MeshError } from '../../src/core/errors.ts'

/** What `hedgerow logs SERVICE` prints: the lines of all instances. */

const at = (second: number) => `2026-01-01T00:00:${String(second).padStart(2, '0')}.000Z`
const line = (second: number) => `${at(second)} line ${second}`
const unplaced = () => new MeshError('INSTANCE_UNKNOWN', { reason: 'it has not been placed on a node' })

async function* from(lines: readonly string[], failure?: Error): AsyncIterable<string> {
  yield* lines
  if (failure !== undefined) throw failure
}

interface Given {
  lines: Record<string, AsyncIterable<string>>
  signal?: AbortSignal
}

function world({ lines, signal = new AbortController().signal }: Given) {
  const printed: string[] = []
  const told: string[] = []
  const asked: (LogsAsked & { instance: string })[] = []
  return {
    printed,
    told,
    asked,
    logs: {
      instances: () => Promise.resolve(Object.keys(lines)),
      read: (instance: string, what: LogsAsked) => {
        asked.push({ instance, ...what })
        return lines[instance] ?? from([])
      },
      print: (instance: string, text: string) => void printed.push(`${instance} ${text}`),
      warn: (sentence: string) => void told.push(sentence),
      signal,
    },
  }
}

t.test('what several instances wrote is ordered by time, each line with its instance', async (t) => {
  const { logs, printed, told } = world({
    lines: {
      a: from([line(1), line(4), 'a line without a time', line(6)]),
      b: from([line(2), line(3), line(5)]),
      c: from([]),
    },
  })
  const last = await printPast(['a', 'b', 'c'], { tail: 100 }, logs)
  t.same(printed, [
    `a ${line(1)}`,
    `b ${line(2)}`,
    `b ${line(3)}`,
    `a ${line(4)}`,
    'a a line without a time',
    `b ${line(5)}`,
    `a ${line(6)}`,
  ])
  t.same(told, [])
  t.same(Object.fromEntries(last), { a: Date.parse(at(6)), b: Date.parse(at(5)) })
})

t.test('a log that cannot be read does not hide the others', async (t) => {
  const down = new MeshError('LINK_CLOSED', { cluster: 'edge' })
  const rows = [
    { why: 'at once', b: from([], down), printed: [`a ${line(1)}`], told: [/^b: the control link to edge is down/] },
    {
      why: 'in the middle',
      b: from([line(0)], down),
      printed: [`b ${line(0)}`, `a ${line(1)}`],
      told: [/^b: the control link/],
    },
    { why: 'not placed yet: it has none', b: from([], unplaced()), printed: [`a ${line(1)}`], told: [] },
  ]
  for (const { why, b, printed, told } of rows) {
    const seen = world({ lines: { a: from([line(1)]), b } })
    await printPast(['a', 'b'], { tail: 100 }, seen.logs)
    t.match(seen.printed, printed, why)
    t.match(seen.told, told, why)
    t.equal(seen.told.length, told.length, why)
  }
  const none = world({ lines: { a: from([], down), b: from([], unplaced()) } })
  await t.rejects(printPast(['a', 'b'], { tail: 100 }, none.logs), { code: 'LINK_CLOSED' }, 'none can be read')
  const waiting = world({ lines: { a: from([], unplaced()) } })
  await printPast(['a'], { tail: 100 }, waiting.logs)
  t.same(waiting.printed, [], 'none has a log yet')
})

/** Lines that are handed over one by one; ends with its signal. */
function live(signal: AbortSignal) {
  const lines: string[] = []
  let wake = () => undefined as void
  const state = { isOpen: true }
  signal.addEventListener('abort', () => wake())
  const text = (async function* () {
    try {
      while (!signal.aborted) {
        while (lines.length > 0) yield lines.shift() as string
        await new Promise<void>((resolve) => (wake = resolve))
      }
      throw new Error('aborted')
    } finally {
      state.isOpen = false
    }
  })()
  const write = (one: string) => {
    lines.push(one)
    wake()
  }
  return { text, state, write }
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

t.test(
  'following: new instances too, one that has moved from its last line on, one that is gone no more',
  async (t) => {
    const ending = new AbortController()
    const printed: string[] = []
    const asked: (LogsAsked & { instance: string })[] = []
    const open = new Map<string, ReturnType<typeof live>>()
    let instances: string[] | Error = ['a', 'b']
    let next = () => undefined as void
    const following = followAll(
      { tail: 5, follow: true },
      {
        instances: () => (instances instanceof Error ? Promise.reject(instances) : Promise.resolve(instances)),
        read: (instance, what, signal) => {
          asked.push({ instance, ...what })
          if (what.follow !== true) return from(instance === 'a' ? [line(1)] : [])
          const one = live(signal)
          open.set(instance, one)
          return one.text
        },
        print: (instance, text) => void printed.push(`${instance} ${text}`),
        warn: (sentence) => t.fail(sentence),
        signal: ending.signal,
        wait: () => new Promise<void>((resolve) => (next = resolve)),
        now: () => 0,
      },
    )
    const looked = async () => {
      next()
      await settled()
    }
    await settled()
    open.get('a')?.write(line(2))
    open.get('b')?.write(line(3))
    await settled()
    t.same(printed, [`a ${line(1)}`, `a ${line(2)}`, `b ${line(3)}`])
    t.same(asked, [
      { instance: 'a', tail: 5 },
      { instance: 'b', tail: 5 },
      { instance: 'a', tail: 99_999, follow: true, since: Date.parse(at(1)) + 1 },
      { instance: 'b', tail: 99_999, follow: true },
    ])

    instances = ['a', 'b', 'c']
    await looked()
    open.get('c')?.write(line(4))
    await settled()
    t.same(printed.slice(3), [`c ${line(4)}`], 'one that is new')

    instances = new Error('the root is away')
    await looked()
    t.ok(open.get('c')?.state.isOpen, 'goes on while the root is away')

    instances = ['a', 'c']
    await looked()
    t.notOk(open.get('b')?.state.isOpen, 'one that is gone')
    t.equal(asked.length, 5)

    ending.abort()
    next()
    await following
    t.notOk(open.get('a')?.state.isOpen || open.get('c')?.state.isOpen, 'all have ended')
  },
)

t.test('following: a log that ends is read again, from the line after its last', async (t) => {
  const ending = new AbortController()
  let rounds = 0
  const { logs, asked, told, printed } = world({ lines: {}, signal: ending.signal })
  await followAll(
    { tail: 0, follow: true },
    {
      ...logs,
      instances: () => Promise.resolve(['a']),
      read: (instance, what) => {
        logs.read(instance, what)
        if (what.follow !== true) return from([])
        return from(rounds === 0 ? [line(7)] : [], new MeshError('LINK_CLOSED', { cluster: 'edge' }))
      },
      wait: async () => {
        await settled()
        rounds += 1
        if (rounds === 2) ending.abort()
      },
      now: () => 1_000,
    },
  )
  t.same(asked, [
    { instance: 'a', tail: 0 },
    { instance: 'a', tail: 99_999, follow: true, since: 1_000 },
    { instance: 'a', tail: 99_999, follow: true, since: Date.parse(at(7)) + 1 },
  ])
  t.same(printed, [`a ${line(7)}`])
  t.match(told, [/^a: the control link to edge is down/])
  t.equal(told.length, 1, 'the same is told once')
})
