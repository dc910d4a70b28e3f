import { connect } from 'node:net'
import { Descriptors } from '../../proxy/flow/descriptors.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { echo, serve } from '../proxy/world.ts'
import { Agents } from '../proxy/two-agents.ts'

export interface Pressed {
  connections: number
  answered: number
  /** Why the others were not, and how often. */
  failures: Record<string, number>
  /** Until the last one was answered, and the answer that half of them had by. */
  lastMs: number
  medianMs: number
}

const CART = 'shop.acme.cart.prod'

/**
 * So many connections in one turn of the event loop; each asks one question and waits for the answer. `real`: the agents
 * look at the descriptors of this process.
 */
export async function pressure(connections: number, { real = false } = {}): Promise<Pressed> {
  const served = await serve(echo, '127.0.0.1', 0, 4_096)
  // One for both agents, as in a process: two that count by themselves would each give away what is left.
  const descriptors = new Descriptors({ log: silentLog, metrics: openMetrics('agent') })
  const agents = await Agents.start({
    services: [{ id: CART, on: ['edge/far'] }],
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    ...(real ? { descriptors: () => descriptors } : {}),
  })
  const host = agents.vip(CART)
  const startedAt = performance.now()
  const times: number[] = []
  const failures: Record<string, number> = {}
  await Promise.all(
    Array.from({ length: connections }, (_, i) => {
      const socket = connect({ host, port: 8080 })
      const question = `question ${i}`
      socket.write(question)
      return new Promise<void>((resolve) => {
        let answer = ''
        let isOver = false
        const over = (why?: string): void => {
          if (isOver) return
          isOver = true
          if (why === undefined) times.push(performance.now() - startedAt)
          else failures[why] = (failures[why] ?? 0) + 1
          resolve()
        }
        socket.on('data', (chunk: Buffer) => {
          answer += chunk.toString()
          if (answer.length >= question.length) over(answer === question ? undefined : 'a wrong answer')
        })
        socket.on('error', (error: NodeJS.ErrnoException) => over(error.code ?? error.message))
        socket.on('close', () => over('closed'))
      })
    }),
  )
  await agents[Symbol.asyncDispose]()
  await served[Symbol.asyncDispose]()
  return {
    connections,
    answered: times.length,
    failures,
    lastMs: Math.round(times.at(-1) ?? 0),
    medianMs: Math.round(times[times.length >> 1] ?? 0),
  }
}
