import type { Usage } from '../runtime.ts'

/** What `GET /containers/x/stats` says, as far as Docker and Podman agree. */
interface Stats {
  cpu_stats?: { cpu_usage?: { total_usage?: number }; throttling_data?: { throttled_time?: number } }
  memory_stats?: { usage?: number; stats?: { inactive_file?: number; total_inactive_file?: number } }
}

/** `undefined` for a container that does not run: all its figures are 0 or missing. */
export function usageIn(answer: unknown): Usage | undefined {
  const { cpu_stats: cpu = {}, memory_stats: memory = {} } = (answer ?? {}) as Stats
  if (typeof memory.usage !== 'number' || typeof cpu.cpu_usage?.total_usage !== 'number') return undefined
  const cache = memory.stats?.total_inactive_file ?? memory.stats?.inactive_file ?? 0
  return {
    cpuSeconds: cpu.cpu_usage.total_usage / 1e9,
    memoryBytes: Math.max(0, memory.usage - cache),
    throttledSeconds: (cpu.throttling_data?.throttled_time ?? 0) / 1e9,
    oomKills: 0, // told when it ends
  }
}
