import { counted } from './text.ts'

interface Difference {
  change: 'created' | 'updated' | 'unchanged' | 'removed'
  instances: { added: number; replaced: number; changedInPlace: number; removed: number }
}

/** What becomes of the instances of one service, as one line. */
export function effectText({ change, instances: { added, replaced, changedInPlace, removed } }: Difference): string {
  const parts = [
    [added, 'added'],
    [replaced, 'replaced'],
    [changedInPlace, 'changed in place'],
    [removed, 'removed'],
  ] as const
  const some = parts.filter(([count]) => count > 0).map(([count, what]) => `${counted(count, 'instance')} ${what}`)
  if (some.length > 0) return some.join(', ')
  return change === 'unchanged' ? 'nothing to do' : 'no instance is touched'
}

/** Whether to apply it would change anything. */
export function isEmpty(services: readonly Difference[]): boolean {
  return services.every(({ change }) => change === 'unchanged')
}
