import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics, type Metrics } from '../../src/core/metrics.ts'
import { canBecome, type InstanceState } from '../../src/core/model/instance.ts'
import type { InstanceReport } from '../../src/orchestrator/spec.ts'
import { ExternalRuntime } from '../../src/orchestrator/worker/external-runtime.ts'
import { ProcessRuntime } from '../../src/orchestrator/worker/process-runtime.ts'
import { Worker } from '../../src/orchestrator/worker/worker.ts'
import type { WorkerConfig } from '../../src/orchestrator/worker/worker-config.ts'
import { factsOf } from './specs.ts'

/** A worker with its folders, and all that it told. */
export interface TestNode extends AsyncDisposable {
  worker: Worker
  dir: string
  metrics: Metrics
  told: InstanceReport[]
  /** Resolves with the first report, past ones too, that is so; what it looked at before is not looked at again. */
  hears(isSo: (report: InstanceReport) => boolean): Promise<InstanceReport>
  becomes(state: InstanceState, instance?: string): Promise<InstanceReport>
}

export async function nodeWith(config: Partial<WorkerConfig> = {}, dir = freshDir()): Promise<TestNode> {
  const told: InstanceReport[] = []
  const waiting = new Set<() => void>()
  const metrics = openMetrics('agent')
  const worker = await Worker.start(
    {
      facts: factsOf(),
      runtimes: [new ProcessRuntime({ node: 'edge/n1' }), new ExternalRuntime()],
      logsDir: join(dir, 'logs'),
      runDir: join(dir, 'run'),
      report: (report) => {
        told.push(report)
        for (const check of waiting) check()
      },
      ...config,
      timings: { backoff: { firstMs: 10, limitMs: 50 }, graceMs: 1_000, restoreMs: 50, ...config.timings },
    },
    silentLog,
    metrics,
  )
  let seen = 0
  const hears = (isSo: (report: InstanceReport) => boolean) =>
    new Promise<InstanceReport>((resolve) => {
      const check = () => {
        while (seen < told.length) {
          const report = told[seen++] as InstanceReport
          if (!isSo(report)) continue
          waiting.delete(check)
          return resolve(report)
        }
      }
      waiting.add(check)
      check()
    })
  return {
    worker,
    dir,
    metrics,
    told,
    hears,
    becomes: (state, instance) =>
      hears((report) => report.state === state && (instance === undefined || report.instance === instance)),
    async [Symbol.asyncDispose]() {
      await worker.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

export function freshDir(): string {
  return mkdtempSync(join(tmpdir(), 'hedgerow-worker-'))
}

/** Every pair of states in a row that NEXT does not allow, for each generation of each instance. */
export function forbiddenSteps(told: readonly InstanceReport[]): string[] {
  const before = new Map<string, InstanceState>()
  return told.flatMap(({ instance, generation, state }) => {
    const key = `${instance} ${generation}`
    const last = before.get(key) ?? 'placed'
    const isAdopted = !before.has(key) && state === 'running' // as an earlier agent left it
    before.set(key, state)
    return isAdopted || last === state || canBecome(last, state) ? [] : [`${last} → ${state}`]
  })
}
