import type { Bench } from './bench.ts'
export async function growth(
  _bench: Bench,
  _options: { out: string | undefined; print: (line: string) => void },
): Promise<void> {}
