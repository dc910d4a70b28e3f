/** What people call it, and below, smaller, what it belongs to. */
export function Name({ name, within }: { name: string; within: string }) {
  return (
    <span class="name">
      <b>{name}</b>
      {within === '' ? undefined : <small>{within}</small>}
    </span>
  )
}
