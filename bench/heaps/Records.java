// SPDX-License-Identifier: GPL-2.0-or-later
// The records of records.py, in objects and HashMaps.
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

public class Records {
	static final String[] FIRST = "anna ben carla david elif fatima george hanna ivan julia karim lena".split(" ");
	static final String[] LAST = "smith mueller garcia novak rossi yilmaz kowalski jansen silva petrov".split(" ");
	static final String[] CITY = "berlin paris madrid rome vienna prague warsaw lisbon dublin oslo".split(" ");
	static final String[] WORDS = ("the order was sent today and will arrive on monday please call us when you have "
		+ "any question about delivery price returns warranty or payment").split(" ");
	static final Random random = new Random(6);

	record Item(String sku, int count, double price) {}

	static class User {
		long id, created;
		double balance;
		boolean active;
		String name, mail, city, token, note;
		List<Item> items = new ArrayList<>();
	}

	static String pick(String[] list) {
		return list[random.nextInt(list.length)];
	}

	static User user(long number) {
		User u = new User();
		StringBuilder note = new StringBuilder();
		u.id = number;
		u.name = pick(FIRST) + " " + pick(LAST);
		u.mail = u.name.replace(' ', '.') + random.nextInt(10000) + "@example.org";
		u.city = pick(CITY);
		u.token = String.format("%016x%016x", random.nextLong(), random.nextLong());
		u.created = 1600000000000L + random.nextInt(1000000000);
		u.balance = random.nextInt(100000) / 100.0;
		u.active = random.nextInt(10) < 7;
		for (int i = random.nextInt(20) + 4; i > 0; i--)
			note.append(pick(WORDS)).append(' ');
		u.note = note.toString();
		for (int i = random.nextInt(4) + 1; i > 0; i--)
			u.items.add(new Item("A" + random.nextInt(1000000), random.nextInt(9), random.nextInt(99999) / 100.0));
		return u;
	}

	public static void main(String[] args) throws Exception {
		int n = Integer.parseInt(System.getenv("MIB")) * 900;
		Map<String, User> byMail = new HashMap<>();
		Map<String, List<User>> byCity = new HashMap<>();

		for (int i = 0; i < n; i++) {
			User u = user(i);
			byMail.put(u.mail, u);
			byCity.computeIfAbsent(u.city, k -> new ArrayList<>()).add(u);
		}
		Files.writeString(Path.of(System.getenv("READY")), "");
		while (byMail.size() + byCity.size() > 0)
			Thread.sleep(100000);
	}
}
